"""Sides run in turn in processes of their own; nothing of one runs in the turn of another."""

import multiprocessing
import time
from functools import partial

import pytest

from experiments.benchmarks.timing import Runner, Timing, Work, in_turn, ratio, together


def sleeper(seconds, units=1, preparing=0.0):
    return Work(lambda: time.sleep(seconds), units, lambda: time.sleep(preparing))


def broken():
    raise ValueError("no such thing")


def with_a_worker():
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    return Work(lambda: None)


def test_seconds_for_a_unit_of_work_without_its_preparation():
    sides = {
        "fast": partial(sleeper, 0.01, units=2, preparing=0.05),
        "slow": partial(sleeper, 0.02),
    }
    fast, slow = in_turn(sides, rounds=3, at_least=0.03, threads=1)
    assert (fast.label, slow.label) == ("fast", "slow") and len(fast.seconds) == len(slow.seconds) == 3
    assert fast.median == pytest.approx(0.005, rel=0.5) and slow.median == pytest.approx(0.02, rel=0.5)
    assert 2.5 < ratio(slow, fast)["median"] < 6


def test_a_ratio_is_taken_round_by_round():
    # A machine that slows down fourfold halfway: the ratio of medians would not be 2 in each round.
    twice = ratio(Timing("a", [2.0, 2.0, 8.0, 8.0]), Timing("b", [1.0, 1.0, 4.0, 4.0]))
    assert twice == {"q1": 2, "median": 2, "q3": 2}
    assert ratio(Timing("a", [1.0, 2.0, 3.0]), Timing("b", [1.0, 1.0, 1.0])) == {
        "q1": 1.5,
        "median": 2,
        "q3": 2.5,
    }


def test_processes_at_the_same_time_add_up():
    with Runner(partial(sleeper, 0.02), 1) as one, Runner(partial(sleeper, 0.02, units=2), 1) as two:
        together([one, two], 0.02)
        assert 100 < together([one, two], 0.2) <= 150


def test_a_side_that_fails_says_why():
    with pytest.raises(RuntimeError, match="'bad' failed: ValueError: no such thing"):
        in_turn({"bad": broken}, rounds=1, threads=1)


def test_a_side_whose_workers_would_run_in_anothers_turn_is_refused():
    with pytest.raises(
        RuntimeError, match=r"'busy' failed: .* 1 of its worker processes would run in the others' turns"
    ):
        in_turn({"busy": with_a_worker}, rounds=1, threads=1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of DataLoader, from Python 3.12 on
def test_the_plain_sides_data_workers_have_ended_before_our_turn(monkeypatch):
    from experiments.benchmarks import (
        baselines,
    )  # each side's process imports this file, and torchvision takes a second

    monkeypatch.setattr(baselines, "EPOCH", 2)
    work = baselines.plain_step("fcn", 28, 8, experiment="mnist_r")
    for _ in range(2):
        work.prepare()
        assert len(multiprocessing.active_children()) == 2
        work.call()
        assert multiprocessing.active_children() == []
