"""The run directory's contract: result, skip, resume, refuse. Kills at any moment are in analysis/test_faults.py."""

import json
import os
import random
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError, build
from experiments.engine.cli import one_sentence_errors
from experiments.engine.files import write_atomically
from experiments.engine.history import History
from experiments.engine.identity import identity
from experiments.engine.optim import make_optimizer
from experiments.engine.result import Result
from experiments.engine.run import assemble, load_run, run
from experiments.report import Section

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


def flip_a_bit(path: Path) -> None:
    """In the middle of the largest tensor's bytes."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda one: one.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(configure, tmp_path, caplog):
    whole, harmed = (configure(f"output_dir={tmp_path}/{name}") for name in ("whole", "harmed"))
    for cfg in (whole, harmed):
        run(cfg)
    folder = rundir.run_dir(harmed)
    (folder / "result.json").unlink()
    flip_a_bit(folder / "last.pt")
    caplog.set_level("INFO")
    result = run(harmed)
    assert (
        f"{folder / 'last.pt'} is damaged or missing: going on from the checkpoint before it" in caplog.text
    )
    assert "at step 2." in caplog.text
    assert untimed(result) == untimed(Result.read(rundir.run_dir(whole) / "result.json"))
    assert_same_weights(rundir.run_dir(whole), folder)


def test_checkpoints_of_which_all_are_damaged_are_named(configure):
    cfg = configure()
    run(cfg)
    folder = rundir.run_dir(cfg)
    (folder / "result.json").unlink()
    for name in ("last.pt", "before.pt"):
        flip_a_bit(folder / name)
    with pytest.raises(UserError, match=r"Not a checkpoint: .*last\.pt cannot be read .*Delete it"):
        run(cfg)


def test_a_checkpoint_of_another_run_is_named(configure):
    cfg = configure()
    run(cfg)
    folder = rundir.run_dir(cfg)
    (folder / "result.json").unlink()
    state = checkpoint.load(folder / "last.pt")
    wider = {key: torch.zeros(3) for key in state["model"]}
    for wrong, message in (
        (state | {"step": 5}, "is of step 5, and trainer.iterations=4 ends before it"),
        (state | {"model": wider}, "of another network or of another program"),
        ({"step": 4}, "of another network or of another program"),
    ):
        checkpoint.save(folder / "last.pt", wrong)
        with pytest.raises(UserError, match=message):
            run(cfg)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff", "[" * 100_000])
def test_a_damaged_result_is_made_anew_from_the_checkpoint(configure, caplog, content):
    cfg = configure()
    first, path = run(cfg), rundir.run_dir(cfg) / "result.json"
    path.write_text(content, encoding="latin-1")
    again = run(cfg)
    assert "result.json is damaged" in caplog.text and untimed(again) == untimed(first)
    assert Result.read(path) == again


@pytest.mark.parametrize("content", ["", '{"seed": 0', "\0\0"])
def test_a_damaged_configuration_is_written_anew(configure, caplog, content):
    cfg = configure()
    first, path = run(cfg), rundir.run_dir(cfg) / "config.json"
    whole = path.read_text()
    (path.parent / "result.json").unlink()
    path.write_text(content)
    assert untimed(run(cfg)) == untimed(first)
    assert "config.json is damaged" in caplog.text and path.read_text() == whole


def test_a_picture_that_fails_costs_no_result(configure):
    def draw(*_):
        raise RuntimeError("no ink")

    section = Section("own", (), draw)
    cfg = configure("section=own", "figures=true")
    with pytest.raises(RuntimeError, match="no ink"):
        run(cfg, (), {"own": section})
    assert Result.read(rundir.run_dir(cfg) / "result.json").iterations == 4


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def fill(_):
        with open("/dev/full", "wb") as file:
            torch.save({"step": torch.zeros(100_000)}, file)

    with pytest.raises(OSError, match="No space left on device") as full:
        write_atomically(path, fill, keep=tmp_path / "before.pt")
    assert full.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["last.pt"] and checkpoint.load(path) == {"step": 1}


@pytest.mark.parametrize("room", [0, 64, 3000])
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_no_error_of_torchs(tmp_path, room):
    checkpoint.save(tmp_path / "last.pt", {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            checkpoint.save_last(tmp_path, {"step": 2, "model": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.filename == str(tmp_path / "last.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["last.pt"]


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
        ("threads=0", "threads=0 is not valid: it is null or a whole number from 1"),
        ("optimizer.localisation_lr=-1", "a number from 0"),
        ("dataset.val_size=100000", "val_size=100000 is not valid"),
        ("trainer.batch_size=5000", "lower trainer.batch_size"),
    ],
)
def test_bad_values_get_one_clear_sentence(configure, override, message):
    with pytest.raises(UserError, match=message):
        run(configure(override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=image_cnn", "do not fit together: Interpolation key 'backbone' not found"),
        ("model.transform=null", "model.transform=null does not fit model=st_cnn, which has transformers"),
        ("dataset=cub50", "unexpected keyword argument 'distort'"),
    ],
)
def test_choices_that_do_not_fit_together_get_one_clear_sentence(configure, override, message):
    with pytest.raises(UserError, match=message):
        run(configure("experiment=mnist_r", override, tiny=False))


def test_sigterm_ends_the_training_with_a_checkpoint_and_the_next_start_goes_on(
    configure, tmp_path, monkeypatch
):
    whole, ended = (
        configure(
            "trainer.iterations=8", "trainer.log_every=2", "trainer.checkpoint_every=8", f"output_dir={tmp_path}/{name}"
        )
        for name in ("whole", "ended")
    )  # fmt: skip
    run(whole)
    folder, add = rundir.run_dir(ended), History.add

    def add_and_ask(history, step, metrics):
        add(history, step, metrics)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(History, "add", add_and_ask)
    with pytest.raises(SystemExit) as left, one_sentence_errors(training=True):
        run(ended)
    assert left.value.code == 143 and checkpoint.load(folder / "last.pt")["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and rundir.failure(folder) == ""
    monkeypatch.setattr(History, "add", add)
    assert untimed(run(ended)) == untimed(Result.read(rundir.run_dir(whole) / "result.json"))
    assert_same_weights(rundir.run_dir(whole), folder) and history(folder) == history(rundir.run_dir(whole))


def history(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]
