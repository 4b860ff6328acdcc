"""The range of every number in a configuration, checked before anything is built."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.engine.build import UserError


@dataclass(frozen=True)
class Range:
    """What a number may be.

    Attributes:
        low, high: the bounds, which belong to the range.
        above, below: bounds that do not.
        whole: whether it is a whole number.
        null: whether null is valid too.
        many: how many numbers a list has, such as 2 for a pair, or 0 for any number of them; None: it is no list.
        rising: whether the numbers of a list do not fall.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    null: bool = False
    many: int | None = None
    rising: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.null
        if self.many is None:
            return self._holds(value)
        if not isinstance(value, list) or (self.many and len(value) != self.many):
            return False
        return all(map(self._holds, value)) and (not self.rising or value == sorted(value))

    def _holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        one = "whole number" if self.whole else "number"
        lower = f" from {self.low:g}" if self.low is not None else ""
        lower += f" above {self.above:g}" if self.above is not None else ""
        upper = f" to {self.high:g}" if self.high is not None else ""
        upper += f" {'to ' if lower else ''}below {self.below:g}" if self.below is not None else ""
        if self.many is None:
            text = f"a {one}{lower}{upper}"
        else:
            text = f"a list of {f'{self.many} ' if self.many else ''}{one}s{lower}{upper}"
        return f"{'null or ' if self.null else ''}{text}{', in rising order' if self.rising else ''}"


def _whole(low: float, **more: Any) -> Range:
    return Range(low=low, whole=True, **more)


COUNT = _whole(1)
AT_LEAST_0 = Range(low=0)
ABOVE_0 = Range(above=0)
SHARE = Range(low=0, high=1)
BELOW_1 = Range(low=0, below=1)
PART = Range(above=0, high=1)  # of something that is not empty

# Dotted key -> its range. A test sees to it that every number in configs/ is here.
RANGES: Mapping[str, Range] = {
    "seed": _whole(0, high=2**63 - 1),
    "threads": _whole(1, null=True),
    "trainer.iterations": COUNT,
    "trainer.batch_size": COUNT,
    "trainer.eval_batch_size": COUNT,
    "trainer.log_every": COUNT,
    "trainer.checkpoint_every": COUNT,
    "trainer.val_every": COUNT,
    "trainer.snapshot_every": _whole(1, null=True),
    "trainer.average": BELOW_1,
    "trainer.schedule.iterations": COUNT,
    "trainer.schedule.warmup": SHARE,
    "trainer.schedule.hold": SHARE,
    "trainer.schedule.start": SHARE,
    "trainer.schedule.final": SHARE,
    "trainer.schedule.gamma": PART,
    "trainer.schedule.step_size": COUNT,
    "trainer.schedule.milestones": _whole(1, many=0, rising=True),
    "optimizer.lr": ABOVE_0,
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.momentum": BELOW_1,
    "optimizer.localisation_lr": AT_LEAST_0,
    "optimizer.pretrained_lr": Range(low=0, null=True),
    "optimizer.matrices.lr": ABOVE_0,
    "optimizer.matrices.weight_decay": AT_LEAST_0,
    "model.width": _whole(1, null=True),
    "model.param_budget": COUNT,
    "model.num_transformers": COUNT,
    "model.pool": COUNT,
    "model.looks": COUNT,
    "model.out_size": COUNT,
    "model.stride": COUNT,
    "model.crop": _whole(1, null=True),
    "model.seen": _whole(1, null=True),
    "model.dropout": BELOW_1,
    "model.start": PART,
    "model.smallest": PART,
    "model.largest": PART,
    "model.transform.scale": ABOVE_0,
    "model.transform.control_points": _whole(2, many=2),
    "task.label_smoothing": BELOW_1,
    "task.smoothing": Range(above=0, null=True, many=2),
    "task.margin": AT_LEAST_0,
    "task.temperature": Range(above=0, many=2),
    "task.looks": COUNT,
    "task.size_smoothing": Range(above=0, many=2),
    "dataset.val_size": _whole(0),
    "dataset.size": COUNT,
    "dataset.channels": _whole(1, high=3),
    "dataset.count": COUNT,
    "dataset.digit": _whole(0, high=9),
    "dataset.crops": COUNT,
    "dataset.smallest_crop": PART,
    "dataset.roll": _whole(0),
    "dataset.test_share": Range(above=0, below=1),
    "dataset.distort.canvas": _whole(8),
    "dataset.distort.max_angle": Range(low=0, high=180),
    "dataset.distort.middle": Range(low=-180, high=180),
    "dataset.distort.scale": Range(above=0, many=2, rising=True),
    "dataset.distort.std": AT_LEAST_0,
    "dataset.distort.reach": PART,
    "dataset.distort.patches": _whole(0),
    "dataset.distort.patch_size": COUNT,
    "dataset.distort.thickness": COUNT,
}


def check_ranges(config: Mapping[str, Any]) -> None:
    """Refuses a number outside of its range, and one of no known range that is not finite.

    Args:
        config: the resolved configuration, as plain dictionaries.

    Raises:
        UserError: names the key, the value and the range.
    """
    for key, value in _values(config):
        known = RANGES.get(key)
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite if known is None else value not in known:
            raise UserError(f"{key}={value} is not valid: it is {known or 'a finite number'}.")


def _values(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; a list is one value."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in RANGES:
            yield from _values(value, f"{key}.")
        else:
            yield key, value
