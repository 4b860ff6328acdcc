"""What a training and the process that waits for it do about the signals of a Slurm that ends their job. No cluster."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.sweeps import process

TELLS = "import signal, sys; print(sys.argv[1:], *(signal.getsignal(n).name for n in (15, signal.SIGUSR2)))"
SCONTROL = ["scontrol", "requeue", "1_0"]


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr(process, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.mark.parametrize(("executor", "kept"), [("slurm", "SIG_IGN SIG_IGN"), ("local", "SIG_DFL SIG_DFL")])
def test_under_slurm_a_training_goes_on_until_its_parent_or_slurm_ends_it(
    monkeypatch, tmp_path, executor, kept
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setenv("STN_INSIDE", f"{sys.executable} -c '{TELLS}'")
    assert process.train(["seed=1"], log=tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == f"['python', '{process.ROOT}/train.py', 'seed=1'] {kept}\n"


@pytest.mark.parametrize(("ends", "status"), [("kill -KILL $$", -signal.SIGKILL), ("exit 143", 143)])
def test_a_killed_training_is_told_of_only_if_the_job_lives_on(monkeypatch, tmp_path, slept, ends, status):
    monkeypatch.setenv("STN_INSIDE", f"sh -c '{ends}'")
    assert process.train([], log=tmp_path / "log") == status and slept == []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert process.train([], log=tmp_path / "log") == status and slept == [process.PATIENCE]


@pytest.mark.parametrize(
    "refusal", [subprocess.CalledProcessError(1, SCONTROL), subprocess.TimeoutExpired(SCONTROL, 60)]
)
def test_where_slurm_does_not_let_submitit_requeue_the_job_its_end_is_waited_for(monkeypatch, slept, refusal):
    started = []

    def wait(training, *_):
        started.append(training)
        raise refusal

    monkeypatch.setenv("STN_INSIDE", f"{sys.executable} -c 'import signal; signal.pause()'")
    monkeypatch.setattr(process, "_wait", wait)
    with pytest.raises(type(refusal)):
        process.train([])
    assert slept == [process.PATIENCE] and started[0].returncode not in (None, 0)
