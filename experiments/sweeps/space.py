"""The space of a search: what varies from trial to trial, said in Hydra's own sweep grammar."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from experiments.engine.build import UserError
from experiments.engine.configuration import CONFIGS
from experiments.engine.identity import decides
from experiments.engine.overrides import Overrides

# A trial with another of these would be measured on other images, or with other luck, or is the same run elsewhere.
NOT_SEARCHED = ("experiment", "dataset", "images", "seed")
DIGITS = 5  # significant ones of a number from an interval; it becomes part of a folder's name


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration that is searched.

    Attributes:
        key: dotted, or a group's name; with its + or ++.
        distribution: the values that it can take.
    """

    key: str
    distribution: BaseDistribution

    def text(self, value: Any) -> str:
        """A proposed value as train.py is given it, within the bounds."""
        space = self.distribution
        if not isinstance(space, FloatDistribution):
            return str(value)
        if space.step is not None:
            return f"{value:.10g}"
        return repr(min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high))

    @property
    def first(self) -> str:
        """A value in the space as train.py is given it."""
        space = self.distribution
        assert isinstance(space, FloatDistribution | IntDistribution | CategoricalDistribution)
        return self.text(space.choices[0] if isinstance(space, CategoricalDistribution) else space.low)

    def __str__(self) -> str:
        space = self.distribution
        if isinstance(space, CategoricalDistribution):
            return " or ".join(map(str, space.choices))
        assert isinstance(space, FloatDistribution | IntDistribution)
        kind = "whole numbers " if isinstance(space, IntDistribution) else ""
        step = f" in steps of {space.step:g}" if space.step not in (None, 1) else ""
        return f"{kind}{space.low:g} to {space.high:g}{step}{', log' if space.log else ''}"


def parse_space(overrides: Sequence[str]) -> tuple[Overrides, list[Parameter]]:
    """Splits overrides in Hydra's grammar into those of every trial and those that are searched.

    interval(a, b) is any number between (whole ones with the tag `int`), choice(...) and range(...) are the values that
    a sweep would run; tag(log, ...) spreads the trials evenly over the orders of magnitude.

    Args:
        overrides: as of train.py.

    Returns:
        The overrides of every trial, and the parameters.

    Raises:
        UserError: for what is not in the grammar, or cannot be searched.
    """
    given = Overrides.parse(overrides)
    searched = []
    for override in given:
        if not override.is_sweep_override():
            continue
        key = override.key_or_group
        if key.split(".")[0] in NOT_SEARCHED or not decides(key):
            raise UserError(
                f"{key} is not searched: all trials have one seed and are measured on the same held-out images."
            )
        searched.append(Parameter(override.get_key_element(), _distribution(override)))
    if not searched:
        raise UserError(
            'There is nothing to search: give a key an interval, a choice or a range, such as "optimizer.lr='
            'tag(log,interval(1e-4,1e-2))" or "model.width=choice(8,16)".'
        )
    return Overrides(tuple(one for one in given if not one.is_sweep_override())), searched


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    try:
        if isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None:
            if (CONFIGS / override.key_or_group).is_dir():
                raise ValueError("there are only options there: write choice(...)")
            if not sweep.start < sweep.end:
                raise ValueError("the second number is to be the larger one")
            if log and sweep.start <= 0:
                raise ValueError("a logarithmic scale has no 0")
            if "int" in sweep.tags or isinstance(sweep.start, int):
                return IntDistribution(math.ceil(sweep.start), math.floor(sweep.end), log=log)
            return FloatDistribution(sweep.start, sweep.end, log=log)
        values = list(override.sweep_string_iterator())
        if len(values) < 2:
            raise ValueError("that is no choice")
        if isinstance(sweep, RangeSweep):
            if log:
                raise ValueError("a range is not logarithmic: write tag(log,interval(...)) or a choice")
            low, high = sorted((float(values[0]), float(values[-1])))
            step = abs(float(sweep.step))
            if all(isinstance(x, int) for x in (sweep.start, sweep.stop, sweep.step)):
                return IntDistribution(int(low), int(high), step=int(step))
            return FloatDistribution(round(low, 10), round(high, 10), step=step)
        return CategoricalDistribution(list(dict.fromkeys(values)))
    except ValueError as error:
        raise UserError(f"{override.input_line} cannot be searched: {error}.") from error
