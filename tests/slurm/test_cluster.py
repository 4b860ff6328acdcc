"""Sweeps on a real Slurm, of one node: jobs that are preempted, whose time is up, or that fail."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.engine import rundir
from experiments.engine.configuration import configuration
from experiments.engine.run import run

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "dataset=digits", "experiment=mnist_rts", "model=cnn", "model.width=4", "trainer=smoke", "trainer.iterations=2000",
    "trainer.log_every=20", "trainer.checkpoint_every=100", "device=cpu", "threads=1", "wandb.mode=disabled",
    "figures=false",
)  # fmt: skip
SMALL = "trainer.batch_size=8"
SECONDS = 600.0  # far more than needed, unless others keep the machine busy

pytestmark = pytest.mark.skipif(
    "STN_SLURM_CLUSTER" not in os.environ, reason="needs a cluster; `make test-slurm` starts one"
)


class Sweep:
    """`train.py -m ... launcher=slurm`, two processors a job, writing below `folder`."""

    def __init__(self, folder: Path, *overrides: str, partition: str) -> None:
        self.folder = folder
        self.command = [
            sys.executable, str(ROOT / "train.py"), "-m", *RUN, f"output_dir={folder}/outputs", "launcher=slurm",
            f"hydra.launcher.partition={partition}", "hydra.launcher.cpus_per_task=2", *overrides,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        with open(self.folder / "said", "w") as file:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=file, stderr=file)

    def ends(self) -> tuple[int, str]:
        """Its exit status and what it said."""
        return self.process.wait(SECONDS), (self.folder / "said").read_text()

    def started(self) -> list[Path]:
        """The run directories of runs past their first checkpoint."""
        return sorted(path.parent for path in self.folder.glob("outputs/mnist_rts/*/*/last.pt"))

    def resumed(self) -> list[Path]:
        return [folder for folder in self.started() if steps_resumed_at(folder)]

    def jobs(self) -> list[dict[str, str]]:
        """What Slurm knows of its jobs."""
        (script,) = self.folder.glob("outputs/sweeps/slurm/*_submission.sh")
        number = script.name.split("_")[0]
        shown = slurm("scontrol", "--oneliner", "show", "job", number)
        return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in shown.splitlines()]

    def restarts(self) -> list[int]:
        return sorted(int(job["Restarts"]) for job in self.jobs())

    def seconds(self) -> int:
        """For how long its one job has been running."""
        hours, minutes, seconds = map(int, self.jobs()[0]["RunTime"].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def limit(self, minutes: int) -> None:
        slurm("scontrol", "update", f"JobId={self.jobs()[0]['JobId']}", f"TimeLimit={minutes}")

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("outputs/sweeps/slurm/*.err"))


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """sweep(overrides, partition="low"): starts one below tmp_path."""
    started = []

    def start(*overrides: str, partition: str = "low") -> Sweep:
        started.append(Sweep(tmp_path, *overrides, partition=partition))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def preempt_one() -> None:
    """Gives six of the node's eight processors to a job that goes before: one of two jobs of two makes way."""
    slurm("sbatch", "--partition=high", "--cpus-per-task=6", "--output=/dev/null", "--wrap=sleep 3")


def wait_until(holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.1)


def trainings(folder: Path) -> list[int]:
    """Process ids of the trainings, not their parents, that write below the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told = path.read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if told[1:3] == [str(ROOT / "train.py"), RUN[0]] and f"output_dir={folder}/outputs" in told:
            found.append(int(path.parent.name))
    return found


def steps_resumed_at(folder: Path) -> list[int]:
    return [int(n) for n in re.findall(r"Resuming .* at step (\d+)\.", (folder / "train.log").read_text())]


def history(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


def assert_as_if_undisturbed(folder: Path, tmp_path: Path) -> None:
    """The run was resumed, and is bit for bit the same run made here in one go: each step's losses, and the weights."""
    assert min(steps_resumed_at(folder)) > 0
    cfg = configuration([*RUN, SMALL, f"seed={folder.name[-1]}", f"output_dir={tmp_path}/here"])
    result, here = run(cfg), rundir.run_dir(cfg)
    assert json.loads((folder / "result.json").read_text())["metrics"] == result.metrics
    assert [row["step"] for row in history(folder)] == list(range(20, 2001, 20))
    assert history(folder) == history(here)
    ours, theirs = (torch.load(path / "last.pt", weights_only=True)["model"] for path in (folder, here))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_preempted_job_goes_on_where_it_was_and_a_failing_one_stops_no_other(sweep, tmp_path):
    # Of four jobs, two find out that there are not so many digits. Preemption with notice: submitit requeues the job.
    sweep = sweep("trainer.batch_size=8,100000", "seed=0,1", partition="graced")
    wait_until(lambda: len(sweep.started()) == 2, "two first checkpoints")
    wait_until(
        lambda: len([j for j in sweep.jobs() if j["JobState"] == "COMPLETED"]) == 2, "two jobs that fail"
    )
    preempt_one()
    status, said = sweep.ends()
    assert status == 1 and "2 done, 2 failed." in said
    told = re.findall(r"failed +mnist_rts/.*seed_\d +A training batch of 100000 needs", said)
    assert len(told) == 4 and len(set(told)) == 2  # each when it has failed, and in the summary
    assert len(re.findall(r"done +mnist_rts/.*seed_\d +test_error", said)) == 4
    jobs = sweep.jobs()
    assert len(jobs) == 4 and len({job["ArrayJobId"] for job in jobs}) == 1
    assert sweep.restarts() == [0, 0, 0, 1]
    assert "this job is preempted" in sweep.logs()
    (folder,) = sweep.resumed()
    assert_as_if_undisturbed(folder, tmp_path)


def test_ctrl_c_leaves_the_jobs_in_the_queue_and_the_same_command_skips_what_they_finished(sweep, tmp_path):
    # Preemption without notice: Slurm kills the job and requeues it by itself.
    sweep = sweep(SMALL, "seed=0,1")
    wait_until(lambda: len(sweep.started()) == 2, "two first checkpoints")
    sweep.process.send_signal(signal.SIGINT)
    status, said = sweep.ends()
    assert status == 130 and "2 open." in said
    preempt_one()
    wait_until(lambda: all(job["JobState"] == "COMPLETED" for job in sweep.jobs()), "both jobs' ends")
    assert sweep.restarts() == [0, 1]
    (folder,) = sweep.resumed()
    assert_as_if_undisturbed(folder, tmp_path)
    sweep.start()
    status, said = sweep.ends()
    assert status == 0 and "2 finished or refused, 0 to do." in said and "2 skipped." in said


def test_a_job_whose_time_is_up_goes_on_where_it_was(sweep, tmp_path):
    sweep = sweep(SMALL, "seed=0", "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=5")
    wait_until(sweep.started, "the first checkpoint")
    # Halted, the training is not done before its time is up, now in some forty seconds. With the signal that says so,
    # Slurm lets it go on.
    for number in trainings(tmp_path):
        os.kill(number, signal.SIGSTOP)
    sweep.limit(math.ceil((sweep.seconds() + 40) / 60))
    wait_until(lambda: sweep.restarts() == [1], "the end of the job's time")
    sweep.limit(60)
    status, said = sweep.ends()
    assert status == 0 and "1 done." in said
    assert "this job is timed-out" in sweep.logs()
    (folder,) = sweep.resumed()
    assert_as_if_undisturbed(folder, tmp_path)
