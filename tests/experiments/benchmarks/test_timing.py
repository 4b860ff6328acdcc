"""Sides run in turn in processes of their own, and the ratio is that of their times."""

import time

import pytest

from experiments.benchmarks.timing import Side, Timing, in_turn, ratio


def sleeper(seconds, work=1):
    return lambda: time.sleep(seconds), work


def broken():
    raise ValueError("no such thing")


def test_seconds_per_unit_of_work_and_their_ratio():
    sides = [Side("fast", sleeper, {"seconds": 0.01, "work": 2}), Side("slow", sleeper, {"seconds": 0.02})]
    fast, slow = in_turn(sides, rounds=3, at_least=0.03, threads=1)
    assert len(fast.seconds) == len(slow.seconds) == 3
    assert fast.median == pytest.approx(0.005, rel=0.5) and slow.median == pytest.approx(0.02, rel=0.5)
    assert 2.5 < ratio(slow, fast).median < 6


def test_a_ratio_is_taken_round_by_round():
    # A machine that slows down fourfold halfway: the ratio of medians would not be 2 in each round.
    twice = ratio(Timing("a", [2.0, 2.0, 8.0, 8.0]), Timing("b", [1.0, 1.0, 4.0, 4.0]))
    assert (twice.low, twice.median, twice.high) == (2, 2, 2)
    assert str(ratio(Timing("a", [1.0, 2.0, 3.0]), Timing("b", [1.0, 1.0, 1.0]))) == "2.00 (1.50–2.50)"


def test_a_side_that_fails_says_why():
    with pytest.raises(RuntimeError, match="'bad' failed: ValueError: no such thing"):
        in_turn([Side("bad", broken)], rounds=1, threads=1)
