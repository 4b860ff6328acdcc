"""Sweeps: each run once, a failed one stops no other, and a summary that says what became of every one."""

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.cli import BUSY
from experiments.engine.configuration import composing
from experiments.engine.files import write_json
from experiments.engine.run import check, run
from experiments.engine.rundir import identity, run_dir
from experiments.sweeps import reproduce
from experiments.sweeps.sweep import Job, Outcome, outcome, sweep
from tests.experiments.conftest import TINY

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))


def params(path):
    return yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]


def product(path):
    """What train.py is told for each job of a sweep file, as Hydra itself expands it."""
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params(path).items()])
    return BasicSweeper.split_arguments(overrides, None)[0]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_files_are_lab_notes_that_compose(path):
    package, head, *more = path.read_text().splitlines()
    assert package == "# @package _global_" and re.match(r"# .+\.", head)
    assert more[0].startswith(f"# run:    python train.py +sweep={path.stem} ")
    with composing() as make:
        make([f"+sweep={path.stem}"])
        folders = {run_dir(make(told), told) for told in product(path)}
    assert len(folders) > 1


@pytest.mark.parametrize("table", ["table1", "addition"])
def test_the_tables_sweeps_are_all_of_their_cells_and_nothing_else(table):
    planned = reproduce.plan(table, trainer="fast", seeds=[0], results=ROOT / "results")
    with composing() as make:
        folders = {ROOT / run_dir(make(told), told) for told in product(ROOT / f"configs/sweep/{table}.yaml")}
    assert folders == {one.folder for one in planned}


def test_what_is_chosen_by_is_judged_on_held_out_digits():
    assert params(ROOT / "configs/sweep/localisation_lr.yaml")["dataset.val_size"] == 5000


def returned(value, status=JobStatus.COMPLETED):
    told = JobReturn(status=status)
    told.return_value = value
    return told


@pytest.fixture
def jobs(configure):
    def make(*several):
        return [Job(told, configure(*told)) for told in several]

    return make


def finish(job, error=1.25):
    write_json(job.folder / "result.json", {"config": identity(job.cfg), "metrics": {"test_error": error}})


def test_each_run_is_launched_once_and_finished_or_refused_ones_not_at_all(jobs):
    some = jobs(
        ("model=fcn", "transform=affine"), ("model=fcn", "transform=tps"), ("model=cnn", "seed=1"), ("model=cnn",),
        ("trainer.iterations=0",),
    )  # fmt: skip
    finish(some[2])
    launched, said = [], []

    def launch(told):
        launched.extend(told)
        return [returned(Outcome("a", "done")), returned(Outcome("b", "failed", "no"))]

    outcomes = sweep(some, check, launch, said.append)
    assert launched == [("model=fcn", "transform=affine"), ("model=cnn",)]
    assert [(one.kind, one.says) for one in outcomes] == [
        ("done", ""),
        ("skipped", "finished before: test_error 1.25%"),
        ("failed", "no"),
        ("failed", "trainer.iterations=0 is not valid: it is a whole number from 1."),
    ]
    assert "4 runs: 2 finished or refused, 2 to do." in said[0]
    assert "1 done, 1 skipped, 2 failed." in said[1]


def test_a_result_of_another_configuration_is_not_taken_for_this_ones(jobs):
    (job,) = jobs(("model=cnn",))
    write_json(job.folder / "result.json", {"config": {"experiment": "another"}, "metrics": {}})
    assert job.result() is None
    (job.folder / "result.json").write_text("cut sho")
    (told,) = sweep([job], check, lambda told: pytest.fail("launched"), lambda text: None)
    assert told.kind == "failed" and "cannot be read" in told.says


@pytest.mark.parametrize("stopped", [RuntimeError("a node\nwas lost"), KeyboardInterrupt()])
def test_where_the_launcher_stops_the_run_directories_say_what_became_of_the_runs(jobs, stopped):
    done, failed, lost = jobs(("seed=1",), ("seed=2",), ("seed=3",))
    said = []

    def launch(told):
        finish(done)
        failed.folder.mkdir(parents=True)
        (failed.folder / rundir.FAILURE).write_text("too large\n")
        raise stopped

    if isinstance(stopped, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            sweep([done, failed, lost], check, launch, said.append)
    else:
        outcomes = sweep([done, failed, lost], check, launch, said.append)
        assert [one.kind for one in outcomes] == ["done", "failed", "open"]
        assert said[2] == "The launcher stopped: RuntimeError, a node was lost."
    assert "1 done, 1 failed, 1 open." in said[1] and "too large" in said[1]


def test_outcomes_by_exit_status(jobs):
    (job,) = jobs(("seed=1",))
    assert (outcome(job, -9).kind, outcome(job, -9).says) == ("failed", "killed by SIGKILL")
    assert outcome(job, 1).says == "exit status 1"
    assert outcome(job, BUSY).kind == "skipped"
    assert outcome(job, None).kind == "open"
    finish(job)
    assert outcome(job, 1) == Outcome(job.label, "done", "test_error 1.25%")


def test_why_a_run_failed_is_kept_in_its_directory_until_it_runs_again(configure):
    told = ("trainer.batch_size=100000",)
    cfg = configure(*told)
    with pytest.raises(UserError, match="as many training digits"):
        run(cfg, told)
    folder = run_dir(cfg, told)
    assert rundir.failure(folder).startswith("A training batch of 100000 needs")
    with rundir.recorded_failure(folder):
        assert rundir.failure(folder) == ""
    with pytest.raises(ZeroDivisionError), rundir.recorded_failure(folder):
        1 / 0  # noqa: B018
    assert rundir.failure(folder) == "ZeroDivisionError: division by zero"


def command(tmp_path, *told, many=False):
    return subprocess.run(
        [sys.executable, "train.py", *(["-m"] if many else []), *TINY, f"output_dir={tmp_path}", *told],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_another_process_at_the_same_run_has_an_exit_status_of_its_own(tmp_path, configure):
    told = [*TINY, f"output_dir={tmp_path}", "model=fcn"]
    with composing() as make:
        folder = run_dir(make(told), told)
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = command(tmp_path, "model=fcn")
    assert done.returncode == BUSY and "Another process is training" in done.stderr


@pytest.mark.slow
def test_a_sweep_from_the_command_line_side_by_side(tmp_path):
    listed = tmp_path / "runs.txt"
    listed.write_text("model=fcn\n\nmodel=cnn optimizer.lr=1e30\nmodel=fcn transform=tps\n")
    first = command(tmp_path, f"hydra.sweeper.file={listed}", "launcher=local", "seed=3", many=True)
    assert first.returncode == 1, first.stderr
    assert "2 runs: 0 finished or refused, 2 to do." in first.stdout
    assert "1 done, 1 failed." in first.stdout and "The loss is nan" in first.stdout
    (result,) = tmp_path.rglob("result.json")
    assert result.parent.name == "seed_3" and "test_error" in (result.parent / "train.log").read_text()
