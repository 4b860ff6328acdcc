"""Muon for the matrices of a network, AdamW for everything else, as one optimiser."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from experiments.engine.compute import multiplies_bf16

__all__ = ["MuonAdamW", "orthogonalise"]

# The odd polynomial a s + b s^3 + c s^5 that a Newton-Schulz step applies to every singular value (Jordan et al. 2024).
# Five steps bring all from about 0.01 to 1 to between 0.7 and 1.2; closer than that gains nothing.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") and AdamW.

    A parameter group with `matrices=True` is updated by Muon, any other by AdamW. A kernel (F, C, kh, kw) counts as the
    matrix (F, C kh kw). With gradient g, momentum m and matrix of r rows and c columns, Muon's step is

        b <- m b + (1 - m) g
        u <- orthogonalise((1 - m) g + m b)                       (Nesterov)
        w <- (1 - lr weight_decay) w - lr sqrt(max(1, r / c)) u

    so that `lr` is about the spectral norm of a step. It is the convention of `torch.optim.Muon`, which takes matrices
    only. AdamW's step is that of `torch.optim.AdamW`.

    The learning rate may be a tensor, and nothing waits for the device, so that a CUDA graph can record a step. The
    state is one momentum buffer per matrix; `step`, `exp_avg` and `exp_avg_sq` per other parameter.

    Args:
        params: parameters, or groups of them. Each option below may be set per group.
        lr: learning rate; groups of matrices have one of their own.
        weight_decay: decoupled, times the learning rate.
        betas, eps: of AdamW.
        matrices: whether a group is updated by Muon.
        momentum: of Muon.
        newton_schulz, bf16: of Muon, `steps` and `bf16` of `orthogonalise`.

    Raises:
        ValueError: for a group of matrices that holds a parameter of fewer than two axes, or an option out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.003,
        *,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        matrices: bool = False,
        momentum: float = 0.95,
        newton_schulz: int = 5,
        bf16: bool = False,
    ) -> None:
        if not (lr >= 0 and weight_decay >= 0 and eps >= 0 and newton_schulz >= 1):
            raise ValueError(
                f"lr={lr}, weight_decay={weight_decay} and eps={eps} are at least 0, newton_schulz={newton_schulz} 1."
            )
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and 0 <= momentum < 1):
            raise ValueError(f"betas={betas} and momentum={momentum} lie from 0 to below 1.")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "betas": betas,
            "eps": eps,
            "matrices": matrices,
            "momentum": momentum,
            "newton_schulz": newton_schulz,
            "bf16": bf16,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        flat = [tuple(p.shape) for p in group["params"] if p.ndim < 2]
        if group["matrices"] and flat:
            self.param_groups.pop()
            raise ValueError(f"Muon updates matrices and kernels, not a parameter of shape {flat[0]}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all parameters that have a gradient.

        Args:
            closure: evaluates the loss again, with gradients; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["matrices"] else self._adamw)(params, group)
        return loss

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        grads, buffers = _gradients(params), [self.state[p]["momentum"] for p in params]
        lr, momentum = group["lr"], group["momentum"]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        wanted = torch._foreach_lerp(grads, buffers, momentum)
        alike = defaultdict(list)  # those of one shape are orthogonalised together
        for p, update in zip(params, wanted, strict=True):
            alike[p.shape, p.dtype, p.device].append((p, update.flatten(1)))
        updates: list[Tensor] = []
        order: list[Tensor] = []
        for members in alike.values():
            stack = torch.stack([matrix for _, matrix in members])
            rows, columns = stack.shape[1:]
            stack = orthogonalise(stack, group["newton_schulz"], bf16=group["bf16"]).mul_(
                math.sqrt(max(1, rows / columns))
            )
            for (p, _), update in zip(members, stack.to(members[0][0].dtype), strict=True):
                order.append(p)
                updates.append(update.view(p.shape))
        if group["weight_decay"]:
            torch._foreach_mul_(order, 1 - lr * group["weight_decay"])
        torch._foreach_mul_(updates, -lr)
        torch._foreach_add_(order, updates)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        grads, states = _gradients(params), [self.state[p] for p in params]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        steps = [s["step"] for s in states]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        torch._foreach_add_(steps, 1)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # w <- w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
        size = [lr / (1 - beta1**t) for t in steps]
        root = [(1 - beta2**t).sqrt() for t in steps]
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, root)
        torch._foreach_add_(scale, group["eps"])
        updates = torch._foreach_div(means, scale)
        torch._foreach_mul_(updates, size)
        torch._foreach_sub_(params, updates)


def _gradients(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def orthogonalise(matrices: Tensor, steps: int = 5, *, bf16: bool = False) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values between 0.7 and 1.2.

    A Newton-Schulz step is X <- (a I + b A + c A^2) X with A = X X^T. All steps multiply from the left, and A's
    successor follows from A alone. So the steps are made on the small square matrices, and the wide one takes part in
    two products in all instead of two a step. That squares the condition, and needs float32.

    Args:
        matrices: (B, R, C), any floating type. Their scale does not matter.
        steps: with Jordan's coefficients.
        bf16: where the hardware multiplies bfloat16: every step on the wide matrix, in bfloat16, exact to about two
            digits. It is faster for nearly square matrices.

    Returns:
        (B, R, C), float32, or float64 for float64.
    """
    a, b, c = COEFFICIENTS
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=EPSILON)[:, None, None]
    if bf16 and multiplies_bf16(x.device.type):
        exact, x = x.dtype, x.bfloat16()
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        x = x.to(exact)
        return x.mT if tall else x
    gram = x @ x.mT
    total = None
    for last in range(steps - 1, -1, -1):
        step = b * gram + c * (gram @ gram)
        step.diagonal(dim1=1, dim2=2).add_(a)
        total = step if total is None else step @ total
        if last:
            gram = step @ gram @ step  # step is symmetric
    x = total @ x
    return x.mT if tall else x
