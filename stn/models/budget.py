"""Networks of equal size: the width that meets a budget of parameters (section 4.1)."""

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["count_parameters", "solve_width"]


def count_parameters(model: nn.Module) -> int:
    """The number of learnt numbers of a network.

    Args:
        model: any module.

    Returns:
        The sum of the sizes of its parameters.

    Examples:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def solve_width(make: Callable[[int], nn.Module], param_budget: int) -> int:
    """The width whose network has the number of parameters closest to a budget.

    The paper gives all networks of Table 1 about 400,000 parameters (section 4.1), so that none wins by its size.

    Args:
        make: width -> network. The number of parameters must grow with the width. The networks are made on the meta
            device, so that no memory is used and no random number is drawn.
        param_budget: the number of parameters aimed at.

    Returns:
        The width, at least 1.

    Raises:
        ValueError: Width 1 has more than twice the budget.

    Examples:
        >>> solve_width(lambda width: nn.Linear(9, width), param_budget=52)
        5
    """

    def count(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(make(width))

    if count(1) > 2 * param_budget:
        raise ValueError(
            f"param_budget={param_budget} is too small: width 1 already has {count(1)} parameters."
        )
    low, high = 1, 2
    while count(high) < param_budget:
        low, high = high, 2 * high
    while high - low > 1:  # count(low) <= budget <= count(high), but for a budget under count(1)
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= param_budget else (low, middle)
    return min(low, high, key=lambda width: abs(count(width) - param_budget))
