"""A suite's table and its rows."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from experiments.benchmarks.timing import Timing, ratio


@dataclass(frozen=True)
class Table:
    """A suite's result: what results/benchmarks.md shows. rows: one dict each, with the same keys in the same order.

    repeats: how often it was measured, where that is not the number of rounds.
    """

    title: str
    notes: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    repeats: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def versus(
    case: str, ours: Timing, theirs: Timing, target: float | None, off: float, *, per_second: bool = False
) -> dict[str, Any]:
    gain = ratio(theirs, ours)
    unit = "images/s" if per_second else "ms"
    show: Callable[[Timing], Any] = (lambda t: f"{1 / t.median:,.0f}") if per_second else milliseconds
    return {
        "case": case,
        "against": theirs.label,
        f"ours, {unit}": show(ours),
        f"theirs, {unit}": show(theirs),
        "times as fast (quartiles)": str(gain),
        "at least": "" if target is None else f"{target:g}",
        "reached": "" if target is None else reached(gain.median >= target),
        "check": f"{off:.0e}",
    }


def fact(what: str, value: str, wanted: str, holds: bool | None) -> dict[str, Any]:
    return {
        "what": what,
        "measured": value,
        "wanted": wanted,
        "reached": "" if holds is None else reached(holds),
    }


def reached(yes: bool) -> str:
    return "yes" if yes else "**no**"


def milliseconds(timing: Timing) -> str:
    return f"{1000 * timing.median:.1f}"


def same(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> float:
    off = float((ours - theirs).detach().abs().max())
    if not off <= tolerance:
        raise RuntimeError(f"{what}: the two sides differ by {off:.3g}: they do not compute the same thing.")
    return off


def has_kornia() -> bool:
    return importlib.util.find_spec("kornia") is not None
