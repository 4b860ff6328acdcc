"""The pool with real processes: the budget, Ctrl-C, and what a stopped training keeps."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.engine.configuration import configuration
from experiments.sweeps import process
from experiments.sweeps.job import BUSY, Job, outcome
from experiments.sweeps.pool import parse_jobs, run_pool
from experiments.sweeps.progress import Progress

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    "dataset=digits", "trainer=smoke", "threads=1", "model.width=4", "trainer.batch_size=8", "trainer.log_every=1",
    "trainer.checkpoint_every=1", "trainer.val_every=1", "figures=false", "wandb.mode=disabled",
)  # fmt: skip
PROGRAM = """
import sys, time
print("started", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("kept", flush=True)
    sys.exit(130)
"""


@pytest.fixture
def jobs(tmp_path):
    def make(*several):
        words = [[f"output_dir={tmp_path}/outputs", *one] for one in several]
        return [Job.of(configuration(one), one) for one in words]

    return make


@pytest.mark.parametrize(
    ("cuda", "words", "count"), [(False, [], 6), (True, [], 1), (True, ["seed=1", "device=cpu"], 6)]
)
def test_one_run_a_core_but_one_alone_on_a_gpu(monkeypatch, cuda, words, count):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert parse_jobs(None, words) == count and parse_jobs(3, words) == 3


def test_a_stopped_training_keeps_its_checkpoint(jobs, tmp_path):
    (job,) = jobs(SMALL)
    waiting, ended = [job], []
    run_pool(
        lambda left: waiting.pop() if waiting else None,
        lambda job, status: ended.append(status),
        at_once=1,
        enough=lambda job: job.started,
        progress=Progress([job], at_once=1),
    )
    assert ended == [None] and job.started and job.trained() is None and 0 < job.left < 1
    assert outcome(job, None).kind == "open"


@pytest.mark.parametrize("how", ["budget", "error"])
def test_all_are_stopped_as_ctrl_c_stops_them(jobs, tmp_path, monkeypatch, how):
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.setattr(process, "ROOT", tmp_path)
    first, second = jobs(["seed=1"], ["seed=2"])
    waiting, ended = [first, second], []
    logs = [job.folder / "train.log" for job in (first, second)]

    def both_run(job):
        return all(log.exists() and "started" in log.read_text() for log in logs)

    def next_job(left):
        if not waiting and how == "error":
            while not both_run(None):
                time.sleep(0.02)
            raise KeyboardInterrupt
        return waiting.pop() if waiting else None

    def run(**options):
        progress = Progress([first, second], at_once=3)
        run_pool(next_job, lambda job, status: ended.append(status), at_once=3, progress=progress, **options)

    if how == "error":
        with pytest.raises(KeyboardInterrupt):
            run()
    else:
        run(budget=600.0, enough=both_run)
        assert ended == [None, None]
    assert all(log.read_text().splitlines()[-1] == "kept" for log in logs)
    assert not process._running


def test_outcomes_by_exit_status(jobs, finish):
    (job,) = jobs(["seed=1"])
    assert str(outcome(job, -9)) == f"failed  {job.label}  killed by SIGKILL"
    assert outcome(job, 1).reason == "exit status 1"
    for status in (BUSY, 130, -signal.SIGINT, None):
        assert outcome(job, status).kind == "open", status
    finish(job, error=1.25)
    assert str(outcome(job, 1)) == f"done    {job.label}  test_error 1.25%"


@pytest.mark.slow
def test_ctrl_c_at_the_script_keeps_checkpoints_and_ends_with_130(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "reproduce.py"),
        "tc",
        "--trainer",
        "smoke",
        "--jobs",
        "1",
    ]
    command += [
        "--dataset",
        "digits",
        "--no-publish",
        "--results",
        str(tmp_path),
        f"output_dir={tmp_path}/outputs",
    ]
    command += ["trainer.checkpoint_every=2", "trainer.log_every=2", "wandb.mode=disabled", "device=cpu"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    stop = threading.Timer(400, running.kill)
    stop.start()
    while running.poll() is None and not list(tmp_path.rglob("last.pt")):
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate()
    stop.cancel()
    assert running.returncode == 130, said
    assert list(tmp_path.rglob("last.pt")) and not list(tmp_path.rglob("result.json"))
