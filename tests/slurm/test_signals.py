"""What a training and the process that waits for it do about the signals of a Slurm that ends their job. No cluster."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.engine import sweep

TELLS = "import signal, sys; print(sys.argv[1:], *(signal.getsignal(n).name for n in (15, signal.SIGUSR2)))"


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.mark.parametrize(("executor", "kept"), [("slurm", "SIG_IGN SIG_IGN"), ("local", "SIG_DFL SIG_DFL")])
def test_under_slurm_a_training_goes_on_until_its_parent_or_slurm_ends_it(
    monkeypatch, tmp_path, executor, kept
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setenv("STN_INSIDE", f"{sys.executable} -c '{TELLS}'")
    assert sweep.train_apart(["seed=1"], tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == f"['python', '{sweep.ROOT}/train.py', 'seed=1'] {kept}\n"


@pytest.mark.parametrize("ends", ["kill -KILL $$", "exit 143"])
def test_a_killed_training_is_told_of_only_if_the_job_lives_on(monkeypatch, tmp_path, slept, ends):
    monkeypatch.setenv("STN_INSIDE", f"sh -c '{ends}'")
    status = sweep.train_apart([], tmp_path / "log")
    assert status in (-9, 143) and slept == []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert sweep.train_apart([], tmp_path / "log") == status and slept == [sweep.PATIENCE]


def test_where_slurm_requeues_the_job_by_itself_submitits_refused_attempt_is_waited_out(monkeypatch, slept):
    class Refused(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None and self.returncode is None:
                raise subprocess.CalledProcessError(1, ["scontrol", "requeue", "1_0"])
            return super().wait(timeout)

    process = Refused([sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.CalledProcessError):
        sweep._wait(process, None)
    assert slept == [sweep.PATIENCE] and process.returncode is not None
