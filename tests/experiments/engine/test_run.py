"""The run directory's contract: result, skip, resume, refuse; a killed run ends as if it had not been."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError, build
from experiments.engine.identity import identity
from experiments.engine.optim import make_optimizer
from experiments.engine.result import Result
from experiments.engine.run import assemble, load_run, run

ROOT = Path(__file__).resolve().parents[3]
TIMING = ("wall_seconds", "images_per_second", "git_revision", "git_dirty")


def untimed(result):
    return {key: value for key, value in result.to_dict().items() if key not in TIMING}


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / name)["model"]


def assert_same_weights(a: Path, b: Path, name: str = "last.pt") -> None:
    left, right = weights(a, name), weights(b, name)
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


def test_result_holds_what_a_sceptic_needs(configure):
    cfg = configure("model=st_cnn", "transform=tps", "dataset.val_size=40")
    result = run(cfg)
    content = json.loads((rundir.run_dir(cfg) / "result.json").read_text())
    assert Result.from_dict(content) == result
    expected = {
        "schema", "experiment", "dataset", "model", "transform", "trainer", "seed", "metrics", "width", "parameters",
        "iterations", "wall_seconds", "images_per_second", "git_revision", "git_dirty", "versions", "device",
        "precision", "test_fingerprint", "config_hash", "config",
    }  # fmt: skip
    assert set(content) == expected
    assert set(result.metrics) == {"test_error", "test_loss", "val_error", "val_loss"}
    assert str(ROOT) not in json.dumps(content) and "data_dir" not in json.dumps(content)
    assert (rundir.run_dir(cfg) / "predictions.pt").exists()
    history = [json.loads(line) for line in (rundir.run_dir(cfg) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [2, 4]
    assert {"train/error", "val/error", "st0/in_frame", "st0/theta_0_mean"} <= set(history[0])


def test_the_stored_predictions_are_those_that_were_counted(configure):
    cfg = configure()
    result = run(cfg)
    data, model, _ = load_run(rundir.run_dir(cfg))
    predictions = torch.load(rundir.run_dir(cfg) / "predictions.pt", weights_only=True)
    assert result.metrics["test_error"] == pytest.approx(
        100 * (predictions != data.test.labels).double().mean().item()
    )
    with torch.no_grad():
        assert torch.equal(model(data.test.images.float() / 255)[0].argmax(1), predictions.long())
    assert data.test.fingerprint == result.test_fingerprint


def test_twice_is_once(configure):
    cfg = configure()
    first = run(cfg)
    stamp = (rundir.run_dir(cfg) / "result.json").stat().st_mtime_ns
    assert run(cfg) == first
    assert (rundir.run_dir(cfg) / "result.json").stat().st_mtime_ns == stamp


def test_circumstances_that_an_earlier_version_stored_do_not_make_another_configuration(configure):
    cfg = configure()
    path = rundir.run_dir(cfg) / "result.json"
    held = run(cfg).to_dict()
    assert "fused" not in held["config"]["optimizer"]
    held["config"]["trainer"]["channels_last"] = True
    held["config"]["optimizer"]["fused"] = False
    path.write_text(json.dumps(held))
    assert run(cfg).to_dict() == held


@pytest.mark.parametrize("finished", [True, False])
def test_another_configuration_is_refused_by_its_differing_keys(configure, finished):
    cfg = configure()
    folder = rundir.run_dir(cfg)
    run(cfg)
    if not finished:
        (folder / "result.json").unlink()
    other = configure("optimizer.lr=0.5")  # the name is the same, since no override is passed for it
    with pytest.raises(UserError, match=r"differs in optimizer\.lr \(0\.003 -> 0\.5\)"):
        run(other)


def test_circumstances_do_not_change_the_run(configure):
    plain, moved = configure(), configure("threads=2", "trainer.log_every=1", "data_dir=/elsewhere")
    assert identity(plain) == identity(moved)
    assert identity(plain) != identity(configure("seed=1"))
    assert identity(configure("model=cnn", "transform=tps")) == identity(configure("model=cnn"))


def test_names(configure):
    cfg = configure("model=st_fcn", "transform=projective", "seed=3")
    assert rundir.run_name(cfg, ["experiment=mnist_rts", "transform=projective", "seed=3", "device=cpu"]) == (
        "st_fcn-projective-smoke"
    )
    assert (
        rundir.run_name(cfg, ["optimizer.lr=0.1", "+a.b=2"])
        == "st_fcn-projective-smoke,a.b=2,optimizer.lr=0.1"
    )
    assert rundir.run_name(configure("model=cnn")) == "cnn-smoke"
    assert rundir.run_dir(cfg).parts[-3:] == ("mnist_rts", "st_fcn-projective-smoke", "seed_3")


def test_a_seed_is_a_run_and_the_test_set_is_not_its_business(configure):
    there = f"output_dir={configure().output_dir}"
    a, again, b = run(configure(f"{there}/a")), run(configure(f"{there}/b")), run(configure("seed=1"))
    assert untimed(a) == untimed(again)
    assert a.metrics["test_loss"] != b.metrics["test_loss"]
    assert a.test_fingerprint == b.test_fingerprint


def test_a_held_run_directory_is_left_alone(configure):
    cfg = configure()
    with rundir.locked(rundir.run_dir(cfg)), pytest.raises(UserError, match="Another process"):
        run(cfg)


def test_a_broken_checkpoint_is_named(configure):
    cfg = configure()
    run(cfg)
    folder = rundir.run_dir(cfg)
    (folder / "result.json").unlink()
    (folder / "last.pt").write_bytes(b"nothing of use")
    with pytest.raises(UserError, match=r"last\.pt cannot be read as a checkpoint"):
        run(cfg)


@pytest.mark.parametrize("model", ["st_cnn", "st_cnn_bn"])
def test_a_checkpoint_of_an_earlier_version_is_resumed(configure, tmp_path, model):
    """Its keys are written out here, and its steps are plain torch: the run must end as if whole."""
    tiny = (f"model={model}", "dataset.val_size=40", "trainer.iterations=6")
    whole, half = (configure(*tiny, f"output_dir={tmp_path}/{name}") for name in ("whole", "half"))
    run(whole)
    data, model = assemble(half, torch.device("cpu"))
    optimizer = make_optimizer(model, half.optimizer)
    schedule = build(half.trainer.schedule)(optimizer)
    stream = data.train_stream(half.trainer.batch_size)
    for _ in range(2):
        images, labels = stream.next_batch()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.train()(images)[0], labels).backward()
        optimizer.step()
        schedule.step()
    version, numbers, gauss = random.getstate()
    state = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
        "stream": stream.state_dict(), "step": 2, "seconds": 1.5,
        "random": {"torch": torch.get_rng_state(), "python": [version, list(numbers), gauss]},
        "best": {"step": 2, "val_error": 0.0, "model": model.state_dict()},
    }  # fmt: skip
    folder = rundir.run_dir(half)
    folder.mkdir(parents=True)
    torch.save(state, folder / "last.pt")
    result = run(half)
    assert result.wall_seconds >= 1.5 and result.iterations == 6
    assert result.metrics == Result.read(rundir.run_dir(whole) / "result.json").metrics
    assert_same_weights(rundir.run_dir(whole), folder)
    assert [line["step"] for line in history(folder)] == [4, 6]
    assert checkpoint.load(folder / "best.pt")["step"] == 2


def test_a_diverged_run_says_so_and_keeps_its_checkpoint(configure):
    cfg = configure("optimizer.lr=1e30", "trainer.iterations=8")
    with pytest.raises(FloatingPointError, match=r"optimizer\.(localisation_)?lr"):
        run(cfg)
    assert not (rundir.run_dir(cfg) / "result.json").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("device=gpu", "device=gpu is not valid: choose one of auto, cpu, cuda"),
        ("trainer.precision=fp8", "choose one of auto, fp32, bf16"),
        ("wandb.mode=on", "choose one of offline, online, disabled"),
        ("trainer.iterations=0", "whole number from 1"),
        ("trainer.checkpoint_every=3", "must be a multiple of trainer.log_every=2"),
        ("seed=-1", "whole number from 0"),
        ("dataset.val_size=100000", "val_size=100000 is not valid"),
        ("trainer.batch_size=5000", "lower trainer.batch_size"),
    ],
)
def test_bad_values_get_one_clear_sentence(configure, override, message):
    with pytest.raises(UserError, match=message):
        run(configure(override))


def test_killed_at_any_moment_and_started_again_ends_bit_for_bit_equal(configure, tmp_path):
    def configured(folder: str):
        return configure(
            "trainer.iterations=60", "trainer.log_every=5", "trainer.checkpoint_every=10", "trainer.val_every=20",
            "trainer.batch_size=16", "model.width=8", "dataset.val_size=50", f"output_dir={tmp_path}/{folder}",
            "model=st_cnn_bn",  # its running statistics are part of the state
        )  # fmt: skip

    # A server that has imported torch once and forks a fresh process for every start.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.engine.run"])
    whole, killed = configured("whole"), configured("killed")
    start(context, whole).join()

    chance, kills, log = random.Random(0), 0, rundir.run_dir(killed) / "metrics.jsonl"
    for attempt in range(10):
        before = steps(log)
        process = start(context, killed)
        if attempt < 4:  # let it get further than before, then a random moment more
            while process.is_alive() and steps(log) <= before:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.1)
            kills += process.is_alive()
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
    assert kills >= 2
    results = [Result.read(rundir.run_dir(cfg) / "result.json") for cfg in (whole, killed)]
    assert untimed(results[0]) == untimed(results[1])
    assert_same_weights(rundir.run_dir(whole), rundir.run_dir(killed))
    assert_same_weights(rundir.run_dir(whole), rundir.run_dir(killed), "best.pt")
    assert weights(rundir.run_dir(whole))["classifier.norm1.num_batches_tracked"] == 60
    assert history(rundir.run_dir(whole)) == history(rundir.run_dir(killed))
    assert not list(rundir.run_dir(killed).glob("*.tmp"))


def start(context, cfg):
    process = context.Process(target=run, args=(cfg,))
    process.start()
    return process


def steps(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def history(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]
