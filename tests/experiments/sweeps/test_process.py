"""Trainings in processes of their own: a share of the cores, a log, stopped by a signal that they can answer."""

import threading
import time

import pytest

from experiments.sweeps import process
from experiments.sweeps.job import LOG, last_line

PROGRAM = """
import sys, time
print("told", *sys.argv[1:], flush=True)
try:
    time.sleep(30 if "long=1" in sys.argv else 0)
except KeyboardInterrupt:
    print("kept", flush=True)
    sys.exit(130)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.setattr(process, "ROOT", tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


def test_what_it_is_told_and_what_it_says(tmp_path):
    log = tmp_path / "deep" / LOG
    assert process.train(["a=1"], share=4, log=log) == 3
    assert process.train(["a=2", "threads=5"], share=4, log=log) == 3
    assert log.read_text() == "told a=1 threads=2\ntold a=2 threads=5\n"
    assert last_line(log) == "told a=2 threads=5" and last_line(tmp_path / "no") == ""


def test_enough_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "LOOK", 0.02)
    log = tmp_path / LOG
    started = time.monotonic()
    assert process.train(["long=1"], log=log, enough=lambda: log.read_text() != "") is None
    assert last_line(log) == "kept" and time.monotonic() - started < 20
    assert process.train(["long=1"], log=log, timeout=0.0, enough=lambda: False) is None


def test_all_threads_trainings_are_stopped(tmp_path):
    log, status = tmp_path / LOG, []
    thread = threading.Thread(target=lambda: status.append(process.train(["long=1"], log=log)))
    thread.start()
    while not (log.exists() and log.read_text()):
        time.sleep(0.01)
    process.stop_all()
    thread.join(20)
    assert status == [130] and last_line(log) == "kept"
