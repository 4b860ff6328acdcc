"""Plain eager PyTorch, told from all else that runs the same code, and a cache that works in it alone.

Compilers, exporters, tracers and function transforms run a module on tensors that stand for others. Such a tensor has
no value to branch on, and it must not outlive what made it.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor, nn
from torch.func import debug_unwrap

__all__ = ["cached", "is_eager"]

P = ParamSpec("P")


def is_eager(*tensors: Tensor) -> bool:
    """Whether tensors are ordinary ones, and those made here and now would be.

    It is False under torch.compile, torch.export, torch.jit.trace, the transforms of torch.func and fake tensors.

    Args:
        tensors: may be none.

    Returns:
        Whether a program may branch on their values, and keep them.

    Examples:
        >>> is_eager(), is_eager(torch.zeros(2))
        (True, True)
        >>> torch.vmap(lambda x: x * is_eager(x))(torch.ones(2)).tolist()
        [0.0, 0.0]
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    made = torch.empty(0, device="cpu")
    return all(type(one) in (Tensor, nn.Parameter) and debug_unwrap(one) is one for one in (made, *tensors))


def cached(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """A decorator that keeps the 64 tensors used last, in plain eager mode. Elsewhere each is made anew.

    Args:
        make: a function of hashable arguments that name device and dtype, so that nothing else decides the result.

    Returns:
        The function with a cache. Never write into what it returns.

    Examples:
        >>> @cached
        ... def ones(n):
        ...     return torch.ones(n, device="cpu", dtype=torch.float32)
        >>> ones(3) is ones(3)
        True
    """

    @lru_cache(maxsize=64)
    def keep(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        # Ordinary even if the first caller is inside inference mode: a tensor of that mode cannot be trained with.
        with torch.inference_mode(False), torch.no_grad():
            return make(*args, **kwargs)

    @wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if is_eager():
            return keep(*args, **kwargs)  # type: ignore[arg-type] # hashable: devices, dtypes and numbers
        return make(*args, **kwargs)

    return get
