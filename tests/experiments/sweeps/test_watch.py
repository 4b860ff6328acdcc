"""Runs that a scheduler starts elsewhere are shown by what appears in their directories."""

import io
import threading
import time

import pytest

from experiments.engine import rundir
from experiments.sweeps import progress, watch
from experiments.sweeps.job import LOG, Job, Outcome
from experiments.sweeps.sweep import sweep
from tests.experiments.conftest import TINY


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "POLL", 0.01)
    monkeypatch.setattr(progress, "estimator_for", lambda jobs, at_once: lambda job: None)


@pytest.fixture
def jobs(configure, tmp_path):
    told = [[*TINY, f"output_dir={tmp_path}/outputs", f"seed={seed}"] for seed in range(3)]
    return [Job.of(configure(f"seed={seed}"), words) for seed, words in enumerate(told)]


@pytest.fixture
def calls(monkeypatch):
    """What the display is told, in order."""
    seen = []

    class Seen(progress.Progress):
        def begin(self, job):
            seen.append(("begin", job.seed))
            super().begin(job)

        def end(self, job, kind):
            seen.append((kind, job.seed))
            super().end(job, kind)

        def tick(self):
            super().tick()
            seen.append(("tick", None))

    monkeypatch.setattr(watch, "Progress", Seen)
    return seen


def wait_for(seen, what):
    end = time.monotonic() + 30
    while what not in seen:
        assert time.monotonic() < end, (what, seen)
        time.sleep(0.005)


def test_a_run_begins_with_its_log_and_ends_with_its_result_or_failure(jobs, calls, finish):
    done, failed, queued = jobs
    failed.folder.mkdir(parents=True)
    (failed.folder / LOG).write_text("of an earlier attempt\n")
    (failed.folder / rundir.FAILURE).write_text("an earlier failure\n")
    said, before = [], threading.active_count()
    with watch.watching(jobs, at_once=2, report=said.append):
        time.sleep(0.1)
        assert calls == [] and said == []  # nothing is shown before the first has begun
        done.folder.mkdir(parents=True)
        (done.folder / LOG).write_text("")
        wait_for(calls, ("begin", 0))
        with open(failed.folder / LOG, "a") as file:
            file.write("another attempt\n")
        wait_for(calls, ("begin", 1))
        calls.clear()
        wait_for(calls, ("tick", None))
        assert said == []  # the earlier failure is not this attempt's
        (failed.folder / rundir.FAILURE).write_text("too large, again\n")
        finish(done, error=1.25)
        wait_for(calls, ("done", 0))
        wait_for(calls, ("failed", 1))
    assert sorted(said) == [
        str(Outcome(done.label, "done", "test_error 1.25%")),
        str(Outcome(failed.label, "failed", "too large, again")),
    ]
    assert not any(seed == queued.seed for _, seed in calls)
    assert threading.active_count() == before


def test_what_fails_in_the_display_stops_no_sweep(jobs, finish, monkeypatch, caplog):
    monkeypatch.setattr(watch, "outcome", lambda *_: 1 / 0)
    job = jobs[0]

    def launch(words):
        job.folder.mkdir(parents=True)
        (job.folder / LOG).write_text("")
        finish(job)
        end = time.monotonic() + 30
        while not caplog.records:
            assert time.monotonic() < end
            time.sleep(0.005)
        raise RuntimeError("lost")

    (ended,) = sweep([job], lambda cfg: None, launch, lambda text: None, elsewhere=4)
    assert ended.kind == "done"
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "the runs go on" in caplog.text


def test_in_a_terminal_there_is_a_line_a_run(jobs, calls, monkeypatch):
    output = io.StringIO()
    output.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", output)
    with watch.watching(jobs, at_once=2, report=print):
        jobs[0].folder.mkdir(parents=True)
        (jobs[0].folder / LOG).write_text("")
        wait_for(calls, ("tick", None))
        shown = output.getvalue()
    assert "%|" in shown and "0 done, 0 failed, 3 open" in shown
    assert output.getvalue().endswith(progress.ERASE)
