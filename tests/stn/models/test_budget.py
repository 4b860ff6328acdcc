"""The width that meets a budget, against a search through all widths."""

import pytest
import torch
from torch import nn

from stn.models.budget import count_parameters, solve_width
from stn.models.mnist import CNN, FCN


def test_parameters_are_counted():
    # 3 * 4 + 4, 4 * 2 (no bias), and the normalisation's scale and shift but not its running mean and variance
    assert (
        count_parameters(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2))) == 28
    )


@pytest.mark.parametrize("classifier", [FCN, CNN])
@pytest.mark.parametrize("budget", [1_000, 5_000, 5_017, 20_000, 60_000])
def test_width_is_the_best_of_all(classifier, budget):
    def make(width: int) -> nn.Module:
        return classifier((1, 21, 24), width=width)

    with torch.device("meta"):
        misses = {width: abs(count_parameters(make(width)) - budget) for width in range(1, 121)}
    assert misses[solve_width(make, budget)] == min(misses.values())


def test_a_budget_below_half_of_width_1_is_refused():
    with pytest.raises(ValueError, match="param_budget=4 is too small: width 1 already has 10 parameters"):
        solve_width(lambda width: nn.Linear(9, width), 4)
    assert solve_width(lambda width: nn.Linear(9, width), 5) == 1
