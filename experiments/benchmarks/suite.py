"""What the suites share: the row of a comparison, the check that both sides compute the same, what is skipped."""

import importlib.util
from typing import Any

from torch import Tensor

from experiments.benchmarks.timing import Timing, ratio

# Numbers as they were measured, with their units in the keys; page.py knows how each unit is written.
Row = dict[str, Any]


class SkippedError(Exception):
    """The suite cannot be measured here; the message says what it needs."""


def comparison(
    case: str, ours: Timing, theirs: Timing, *, at_least: float | None, difference: float, rate: bool = False
) -> Row:
    """The row of one comparison.

    Args:
        case: What was computed.
        ours: Time for one step, or for one image where `rate`.
        theirs: Likewise.
        at_least: How many times as fast ours is meant to be.
        difference: The largest between both sides' outputs.
        rate: Give images per second instead of milliseconds.
    """
    gain = ratio(theirs, ours)
    unit = "images_per_second" if rate else "ms"
    return {
        "case": case,
        "against": theirs.label,
        **{
            f"{name}_{unit}": 1 / t.median if rate else t.ms
            for name, t in (("ours", ours), ("theirs", theirs))
        },
        "times_as_fast": gain,
        "at_least": at_least,
        "reached": None if at_least is None else gain["median"] >= at_least,
        "largest_difference": difference,
    }


def largest_difference(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> float:
    """The largest absolute difference.   raises: RuntimeError where it is above the tolerance, or not a number."""
    difference = float((ours - theirs).detach().abs().max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"{what}: the two sides differ by {difference:.3g}: they do not compute the same thing."
        )
    return difference


def has_kornia() -> bool:
    return importlib.util.find_spec("kornia") is not None
