"""Sweeps: each run once, a failed one stops no other, and a summary that says what became of every one."""

import fcntl
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.cli import BUSY
from experiments.engine.configuration import composing
from experiments.engine.identity import transform_name
from experiments.engine.run import check, run
from experiments.engine.rundir import run_dir
from experiments.sections import TABLES
from experiments.sweeps import process
from experiments.sweeps.job import Job, Outcome, exit_status, outcome
from experiments.sweeps.plan import plan
from experiments.sweeps.sweep import side_by_side, sweep
from hydra_plugins.runs import RunSweeper, SideBySide
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
        folders = {ROOT / run_dir(make(told), told) for told in product(path)}
    assert len(folders) > 1
    if path.stem in TABLES:  # it is all of the table's cells and nothing else
        planned = plan(path.stem, trainer="fast", seeds=[0], results=ROOT / "results")
        assert folders == {one.folder for one in planned}


def test_what_is_chosen_by_is_judged_on_held_out_digits():
    assert params(ROOT / "configs/sweep/localisation_lr.yaml")["dataset.val_size"] == 5000


def returned(value, status=JobStatus.COMPLETED):
    told = JobReturn(status=status)
    told.return_value = value
    return told


@pytest.fixture
def jobs(configure, tmp_path):
    def make(*several):
        return [
            Job.of(configure(*words), [*TINY, f"output_dir={tmp_path}/outputs", *words]) for words in several
        ]

    return make


def test_each_run_is_launched_once_and_finished_or_refused_ones_not_at_all(jobs, finish):
    some = jobs(
        ("model=fcn", "transform=affine"), ("model=fcn", "transform=tps"), ("model=cnn", "seed=1"), ("model=cnn",),
        ("trainer.iterations=0",),
    )  # fmt: skip
    finish(some[2], error=1.25)
    launched, said = [], []

    def launch(words):
        launched.extend(words)
        return [returned(Outcome("a", "done")), returned(Outcome("b", "failed", "no"))]

    outcomes = sweep(some, check, launch, said.append)
    assert launched == [some[0].overrides.words, some[3].overrides.words]
    assert [(one.kind, one.reason) for one in outcomes] == [
        ("done", ""),
        ("skipped", "finished before: test_error 1.25%"),
        ("failed", "no"),
        ("failed", "trainer.iterations=0 is not valid: it is a whole number from 1."),
    ]
    assert "4 runs: 2 finished or refused, 2 to do." in said[0]
    assert "1 done, 1 skipped, 2 failed." in said[1]


COLOCALISATION = ("experiment=colocalisation", "images=t", "dataset.digit=1")


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_required_run_is_launched_before_those_that_need_it(jobs, finish, ends):
    both, said, waves = jobs(COLOCALISATION, (*COLOCALISATION, "seed=1")), [], []
    (needed,) = both[0].requires
    names = {tuple(job.overrides.words): job for job in [*both, needed]}

    def launch(several):
        waves.append([names[tuple(words)] for words in several])
        if ends == "well":
            for job in waves[-1]:
                finish(job)
        return [returned(outcome(job, 1)) for job in waves[-1]]

    outcomes = sweep(both, check, launch, said.append)
    assert [job.label for job in waves[0]] == [needed.label]
    if ends == "well":
        assert waves[1:] == [both] and exit_status(outcomes) == 0
    else:
        assert len(waves) == 1 and exit_status(outcomes) == 1
        assert [one.kind for one in outcomes] == ["failed", "open", "open"]
        assert f"needs {needed.label}, which is failed" in said[-1]


def test_a_result_of_another_configuration_is_not_taken_for_this_ones(jobs, finish):
    one, other = jobs(("model=cnn",), ("model=fcn",))
    finish(replace(other, folder=one.folder))
    assert one.result() is None
    (one.folder / "result.json").write_text("cut sho")
    (ended,) = sweep([one], check, lambda words: pytest.fail("launched"), lambda text: None)
    assert ended.kind == "failed" and "cannot be read" in ended.reason


@pytest.mark.parametrize("stopped", [RuntimeError("a node\nwas lost"), KeyboardInterrupt()])
def test_where_the_launcher_stops_the_run_directories_say_what_became_of_the_runs(jobs, finish, stopped):
    done, failed, lost = jobs(("seed=1",), ("seed=2",), ("seed=3",))
    said = []

    def launch(words):
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


def test_side_by_side_each_run_is_told_the_launchers_threads_and_logs_into_its_directory(
    configure, tmp_path, monkeypatch, finish
):
    told, said = [], []
    words = [["launcher=local", "seed=1"], ["launcher=local", "seed=2", "threads=3"]]
    jobs = [Job.of(configure(*one, tiny=False), one) for one in words]

    def train(overrides, *, log, cwd, share, **_):
        told.append((overrides, log, cwd, share))
        return 0 if finish(jobs[0]) and "seed=1" in overrides else -9

    monkeypatch.setattr(process, "train", train)
    monkeypatch.chdir(tmp_path)
    outcomes = side_by_side(jobs, at_once=1, report=said.append)
    logs = [job.folder / "train.log" for job in jobs]
    assert told == [
        (["seed=1", "threads=1"], logs[0], tmp_path, 1),
        (["seed=2", "threads=3"], logs[1], tmp_path, 1),
    ]
    assert [one.kind for one in outcomes] == ["done", "failed"] and said == [str(one) for one in outcomes]
    assert outcomes[1].reason == "killed by SIGKILL"
    with pytest.raises(UserError, match=r"hydra.launcher.n_jobs=0 is not valid"):
        SideBySide(n_jobs=0).launch([], 0)


@pytest.mark.parametrize("kind", ["done", "skipped", "failed", "open"])
def test_the_sweeper_ends_the_program_as_its_runs_ended(monkeypatch, configure, kind):
    sweeper = RunSweeper.__new__(RunSweeper)  # Hydra, which loads plugins anew, calls the base's __init__
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": configure().output_dir}}})
    sweeper.launcher = object()
    monkeypatch.setattr(sweeper, "_expand", lambda arguments: [])
    monkeypatch.setattr("experiments.sweeps.sweep.sweep", lambda *_, **__: [Outcome("a", kind)])
    if kind in ("done", "skipped"):
        assert sweeper.sweep([])
    else:
        with pytest.raises(SystemExit) as ended:
            sweeper.sweep([])
        assert ended.value.code == 1


def test_the_sweeper_ends_with_one_sentence_where_it_cannot_begin(monkeypatch, configure, capsys, tmp_path):
    sweeper = RunSweeper.__new__(RunSweeper)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": configure().output_dir}}})
    sweeper.launcher, sweeper.file, sweeper.hydra_context = object(), str(tmp_path / "none.txt"), MagicMock()
    with pytest.raises(SystemExit) as ended:
        sweeper.sweep([])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "none.txt is no file: name one" in said


def test_a_run_whose_transform_is_null_has_a_name_and_is_refused(configure):
    asked = ("experiment=mnist_r", "model=st_cnn", "model.transform=null")
    with pytest.raises(UserError, match=r"model\.transform=null does not fit"):
        check(configure(*asked))
    assert transform_name(configure(*asked)) is None  # a sweep names a run before it checks it


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
