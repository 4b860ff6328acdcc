"""The reproduction script: what is missing, in which order, published once, stopped and continued."""

import json
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.identity import identity, transform_name
from experiments.engine.machine import usual_jobs
from experiments.engine.result import Result
from experiments.report import details
from experiments.sections import TABLES
from experiments.sweeps import process, reproduce

ROOT = Path(__file__).resolve().parents[3]


def plan(tmp_path, table="tc", trainer="smoke", seeds=(0, 1)):
    extra = [f"output_dir={tmp_path}/outputs", "wandb.mode=disabled"]
    return reproduce.plan(table, trainer=trainer, seeds=seeds, results=tmp_path / "results", extra=extra)


def result_of(run, **changes):
    """The content of a finished run's result.json."""
    config = run.config
    return Result(
        experiment=config["experiment"], dataset=config["dataset"]["name"], model=config["model"]["name"],
        transform=transform_name(config), trainer=config["trainer"]["name"], seed=run.seed,
        metrics={"test_error": 1.0}, width=4, parameters=1000, iterations=config["trainer"]["iterations"],
        wall_seconds=60.0, images_per_second=100.0, git_revision="0" * 40, git_dirty=False, versions={},
        device="cpu: A, 1 thread", test_fingerprint="ab" * 32, config_hash="", config=config,
    ).to_dict() | changes  # fmt: skip


def finish(run, where, **changes):
    path = run.folder / "result.json" if where == "outputs" else run.published
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result_of(run, **changes)))


def test_a_table_is_its_cells_seed_by_seed_the_most_telling_first(tmp_path):
    runs = plan(tmp_path)
    assert [run.label for run in runs] == [
        f"mnist_tc/{row}-smoke-seed_{seed}"
        for seed in (0, 1)
        for row in ("st_cnn-affine", "cnn", "st_fcn-affine", "fcn")
    ]
    assert len(plan(tmp_path, "table1", "paper", (0, 1, 2))) == 8 * 4 * 3
    assert runs[0].overrides[:3] == ("experiment=mnist_tc", "model=st_cnn", "transform=affine")
    assert runs[1].overrides[1:3] == ("model=cnn", "trainer=smoke")
    assert len({run.published for run in runs}) == len(runs)


def test_missing_are_those_without_a_result_of_this_very_configuration(tmp_path):
    runs = plan(tmp_path)
    finish(runs[0], "outputs")
    finish(runs[1], "results")
    finish(runs[2], "results", config={"another": 1})
    said = []
    outcome = reproduce.reproduce(runs, budget=0, dry_run=True, say=said.append)
    assert outcome["done"] == [runs[0].label, runs[1].label]
    assert outcome["open"] == [run.label for run in runs[2:]]
    assert said[0] == "8 runs: 2 finished, 6 missing."
    assert not runs[0].published.exists()  # a dry run writes nothing


def test_finished_runs_are_published_one_file_each(tmp_path):
    runs = plan(tmp_path)
    finish(runs[0], "outputs")
    assert reproduce.publish(runs) == [runs[0].published]
    assert json.loads(runs[0].published.read_text()) == result_of(runs[0])
    assert reproduce.publish(runs) == []
    shutil.rmtree(tmp_path / "outputs")
    assert runs[0].result().to_dict() == result_of(runs[0])


def test_all_is_every_table_seed_by_seed_and_row_by_row_no_run_twice(tmp_path):
    runs = plan(tmp_path, "all", "paper", (0, 1))
    assert [run.seed for run in runs] == [0] * (len(runs) // 2) + [1] * (len(runs) // 2)
    first = [run.published.parent.name for run in runs if run.seed == 0]
    assert first[:9] == ["mnist_r", "mnist_rts", "mnist_p", "mnist_e", "mnist_tc", "mnist_addition", "cub_cnn_224",
                         "mnist_3d", "mnist_3d"]  # fmt: skip
    labels = [run.label for run in runs]
    assert len({*labels}) == len(runs) == 2 * (8 * 4 + 4 + 8 + 2 * 10 + 4 + 2 * 2)
    crops = next(i for i, label in enumerate(labels) if label.startswith("colocalisation/"))
    assert labels.index("mnist_p/cnn-paper-seed_0") < crops  # the network that describes crops
    assert "-fast," in labels[crops]  # for which the paper gives no schedule


def test_a_data_set_goes_with_the_tables_of_its_kind(tmp_path):
    def tables(dataset, table="all"):
        runs = reproduce.plan(
            table, trainer="smoke", seeds=[0], results=tmp_path / "results", dataset=dataset
        )
        return {reproduce.estimates.place_of(run.config, list(TABLES.values()))[0].name
                for run in runs}  # fmt: skip

    assert tables("toy_birds") == {"birds"}
    with pytest.raises(UserError, match="is not of the kind of images that the table tc is about"):
        tables("cub50", "tc")
    with pytest.raises(UserError, match="that any table is about"):
        tables("own_images")


def test_a_table_without_its_data_fails_with_its_sentence_and_the_rest_goes_on(tmp_path, monkeypatch):
    said, real = [], reproduce._train
    extra = [f"output_dir={tmp_path}/outputs", f"data_dir={tmp_path}", "device=cpu", "wandb.mode=disabled"]
    birds = reproduce.plan("birds", trainer="paper", seeds=[0], results=tmp_path / "results", extra=extra)
    digits = plan(tmp_path, seeds=(0,))

    def train(run, timeout, share):
        if run is birds[0]:
            return real(run, timeout, share)
        finish(run, "outputs")
        return 0

    monkeypatch.setattr(reproduce, "_train", train)
    outcome = reproduce.reproduce(
        [birds[0], *digits], budget=float("inf"), dry_run=False, jobs=2, say=said.append
    )
    assert outcome["failed"] == [birds[0].label] and len(outcome["done"]) == 4
    (sentence,) = (line for line in said if line.startswith(f"{birds[0].label}: "))
    assert "prepare_data.py cub" in sentence


def test_what_its_own_checkpoint_has_done_is_taken_off(tmp_path):
    runs = plan(tmp_path)
    finish(runs[0], "outputs", wall_seconds=100.0, device="here")
    known = reproduce.evidence(runs)
    assert reproduce.estimate(runs[4], known, "here").seconds == pytest.approx(100.0)
    runs[4].folder.mkdir(parents=True)
    lines = [json.dumps({"step": step}) for step in (50, 300)]  # of 1,200
    (runs[4].folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3']))
    assert runs[4].left == 1  # without a checkpoint it begins anew
    (runs[4].folder / "last.pt").touch()
    assert reproduce.estimate(runs[4], known, "here").seconds == pytest.approx(75.0)


def test_a_dry_run_says_how_long_how_known_and_the_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce.estimates, "device_of", lambda *_: "here")
    runs = plan(tmp_path, seeds=(0, 1))
    finish(runs[0], "results", wall_seconds=7200.0, device="here")
    finish(runs[3], "outputs", wall_seconds=1200.0, device="there")
    said = []
    reproduce.reproduce(runs, budget=0, dry_run=True, jobs=2, say=said.append)
    assert said[3:] == [
        f"  missing  {runs[4].label}  about 2.0 h",
        f"  missing  {runs[5].label}  unknown",
        f"  missing  {runs[6].label}  unknown",
        f"  missing  {runs[7].label}  about 20 min (on there)",
        "In all 2.3 h of runs on here, 1.2 h with 2 at a time; unknown: 4 of 6 runs.",
    ]


def test_predictions_and_curves_are_published_too_also_later(tmp_path):
    run = plan(tmp_path)[0]
    finish(run, "outputs")
    reproduce.publish([run])
    file = tmp_path / "results" / "details" / "mnist_tc" / f"{run.published.stem}.npz"
    file.unlink()
    torch.save(torch.tensor([1, 2, 3], dtype=torch.uint8), run.folder / "predictions.pt")
    (run.folder / "metrics.jsonl").write_text('{"step": 2, "train/error": 50.0}\n')
    assert reproduce.publish([run]) == [] and file.exists()
    assert details.predictions(run.published).tolist() == [1, 2, 3]
    assert details.curves(run.published) == {"train/error": {2: 50.0}}
    file.unlink()
    finish(run, "outputs", metrics={"test_error": 2.0})  # another's predictions are not this result's
    reproduce.publish([run])
    assert not file.exists()


def test_a_budget_runs_what_fits_and_says_what_is_left(tmp_path, monkeypatch):
    runs = plan(tmp_path)
    finish(runs[0], "outputs", wall_seconds=1e6)  # so seed 1 of this cell is known not to fit
    trained = []

    def train(run, timeout, share):
        assert 0 < timeout <= 3600
        trained.append(run.label)
        if run is runs[1]:
            return 1
        finish(run, "outputs")
        return 0

    monkeypatch.setattr(reproduce, "_train", train)
    outcome = reproduce.reproduce(runs, budget=3600, dry_run=False, say=lambda _: None)
    assert outcome["failed"] == [runs[1].label]
    assert trained[-1] == runs[4].label  # last of all, since nothing that fits is left
    assert all(run.published.exists() for run in runs if run is not runs[1])


def test_several_at_a_time_each_once_and_what_each_ended_with_is_said(tmp_path, monkeypatch):
    runs, said, at_once, most = plan(tmp_path), [], [], []

    def train(run, timeout, share):
        at_once.append(run.label)
        most.append(len(at_once))
        time.sleep(0.05)
        at_once.remove(run.label)
        assert share == 2
        if run is runs[3]:
            run.folder.mkdir(parents=True)
            (run.folder / "train.log").write_text("step 1\nThe loss is nan: lower the learning rate.\n")
            return 1
        finish(run, "outputs")
        return 0

    monkeypatch.setattr(reproduce, "_train", train)
    outcome = reproduce.reproduce(runs, budget=60, dry_run=False, jobs=2, say=said.append)
    assert max(most) == 2 and len(most) == len(runs)
    assert outcome["failed"] == [runs[3].label] and len(outcome["done"]) == 7
    assert f"{runs[0].label}: test_error 1.00%" in said
    assert f"{runs[3].label}: The loss is nan: lower the learning rate." in said


@pytest.mark.parametrize(
    ("cuda", "told", "jobs"), [(False, [], 6), (True, [], 1), (True, ["seed=1", "device=cpu"], 6)]
)
def test_one_run_a_core_but_one_alone_on_a_gpu(monkeypatch, cuda, told, jobs):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert usual_jobs(process.told_device(told)) == jobs


def test_a_share_of_the_cores_and_a_log_of_its_own(tmp_path, monkeypatch):
    (run,) = plan(tmp_path, seeds=(0,))[:1]
    commands = []

    class Process:
        returncode = 0

        def __init__(self, command, *, cwd, stdout, stderr, preexec_fn):
            commands.append(command)
            if stdout:
                stdout.write("trained\n")

        def wait(self, timeout):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert reproduce._train(run, 60.0, 4) == 0 and reproduce._train(run, 60.0) == 0
    assert "threads=2" in commands[0] and not any(part.startswith("threads=") for part in commands[1])
    assert (run.folder / "train.log").read_text() == "trained\n"


def test_no_budget_left_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "_train", lambda *_: pytest.fail("started"))
    outcome = reproduce.reproduce(plan(tmp_path), budget=0, dry_run=False, say=lambda _: None)
    assert len(outcome["open"]) == 8


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (None, float("inf"))]
)
def test_budgets(text, seconds):
    assert reproduce.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "", "2 h", "1m1h", "-5m"])
def test_bad_budgets(text):
    with pytest.raises(UserError, match="write 90s, 30m, 2h or 1h30m"):
        reproduce.parse_budget(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tc", "--seeds", "a"], "is not a list of seeds"),
        (["tc", "--trainer", "fats"], "choose one of fast, paper, paper_birds, smoke"),
        (["tc", "optimizer.lr=1"], "would change what a cell measures"),
        (["tc", "--budget", "soon"], "is not a time"),
        (["tc", "--jobs", "0"], "is a whole number from 1"),
        (["tc", "--dataset", "toy_birds"], "is not of the kind of images"),
    ],
)
def test_the_scripts_errors_are_one_sentence(script, arguments, message):
    status, _, said = script("reproduce.py", *arguments)
    assert (status, said.count("\n")) == (2, 1)
    assert message in said


def test_a_stopped_training_keeps_its_checkpoint_and_goes_on(tmp_path, monkeypatch):
    (run,) = plan(tmp_path, seeds=(0,))[:1]
    small = ("dataset=digits", "threads=1", "model.width=4", "trainer.batch_size=8", "trainer.log_every=1",
             "trainer.checkpoint_every=1", "trainer.val_every=1", "figures=false")  # fmt: skip
    run = reproduce.Run(
        (*run.overrides, *small), *(getattr(run, f) for f in ("folder", "published", "config", "seed"))
    )
    stopped = []
    real_wait = subprocess.Popen.wait

    def wait(self, timeout=None):  # the time is up as soon as there is a checkpoint
        if not stopped:
            while self.poll() is None and not list((tmp_path / "outputs").rglob("last.pt")):
                time.sleep(0.01)
            stopped.append(self)
            raise subprocess.TimeoutExpired(self.args, 0)
        return real_wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    assert reproduce._train(run, 1.0) is None
    assert stopped[0].returncode not in (None, -signal.SIGKILL)
    (last,) = (tmp_path / "outputs").rglob("last.pt")
    assert not (last.parent / "result.json").exists()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_what_a_cell_trains_stands_in_that_cell(name, tmp_path):
    table = TABLES[name]
    for row in table.rows:
        for column in table.columns:
            cfg = configuration([*table.overrides(row, column), "trainer=smoke"])
            result = SimpleNamespace(
                experiment=cfg.experiment,
                model=cfg.model.name,
                transform=transform_name(cfg),
                config=identity(cfg),
            )
            assert table.place(result) == (row, column)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"launcher": "cloud"}, "There is no launcher 'cloud': choose one of local"),
        ({"launcher": "local", "jobs": 2}, "leave them out with --launcher"),
        ({"launcher": "local", "budget": 60.0}, "leave them out with --launcher"),
        ({"told": ["hydra.launcher.partition=gpu"]}, "hydra.launcher.partition=gpu is a launcher's"),
        ({"jobs": 0}, "whole number from 1"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        reproduce.reproduce(plan(tmp_path), **how)


def test_a_launcher_gets_the_missing_runs_as_one_sweep(tmp_path, monkeypatch):
    runs = plan(tmp_path)[:4]
    finish(runs[0], "outputs")
    commands, listed = [], []

    def sweep(command, **_):
        commands.append(command)
        listed.extend(Path(command[3].removeprefix("hydra.sweeper.file=")).read_text().splitlines())
        finish(runs[1], "outputs")
        runs[2].folder.mkdir(parents=True)
        (runs[2].folder / rundir.FAILURE).write_text("too large\n")

    monkeypatch.setattr(reproduce.subprocess, "run", sweep)
    settings = ["hydra.launcher.partition=gpu", "device=cpu"]
    outcome = reproduce.reproduce(runs, launcher="local", told=settings, say=lambda text: None)
    assert outcome == {
        "done": [runs[0].label, runs[1].label],
        "failed": [runs[2].label],
        "open": [runs[3].label],
    }
    assert commands[0][1:3] == ["train.py", "-m"]
    assert commands[0][4:] == ["launcher=local", "hydra.launcher.partition=gpu"]
    assert [tuple(shlex.split(line)) for line in listed] == [run.overrides for run in runs[1:]]
    assert runs[1].published.exists()
