"""Optimiser and learning-rate schedule, with learning rates of their own for localisation networks and backbones."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from experiments.engine.build import build
from stn import localisation_parameters
from stn.localisation import Head


def make_optimizer(model: nn.Module, config: Mapping[str, Any], *, plain: bool = False) -> Optimizer:
    """Builds an optimiser with parameter groups for the rest, localisation networks and pretrained backbones.

    Args:
        model: the network.
        config: `_target_` and its arguments, among them `lr`. `localisation_lr` is the factor on `lr` for the
            localisation networks: theta's gradient is a sum over all pixels, so it grows with the image.
            `pretrained_lr` is the factor for all backbones, those of localisation networks included; without it, or
            with None, a backbone belongs to the group of the network around it.
            `matrices` has the options of groups of their own for hidden matrices and kernels (`hidden_matrices`),
            such as their `lr`; the factors apply to it too. Without it, or with None, there are none.
        plain: leave out `fused`, which updates all parameters in one kernel and saves a millisecond a step on a CPU.
    """
    factors = {name: config.get(name) for name in ("localisation_lr", "pretrained_lr")}
    own: dict[str, Any] = config.get("matrices") or {}
    arguments = {key: value for key, value in config.items() if key not in (*factors, "matrices")}
    if plain:
        arguments.pop("fused", None)
    pretrained = [] if factors["pretrained_lr"] is None else _of_backbones(model)
    taken = {id(parameter) for parameter in pretrained}
    localisation = [parameter for parameter in localisation_parameters(model) if id(parameter) not in taken]
    taken |= {id(parameter) for parameter in localisation}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    matrices = {id(parameter) for parameter in hidden_matrices(model)} if own else set()
    groups: list[dict[str, Any]] = []
    for parameters, name in ((rest, None), (localisation, "localisation_lr"), (pretrained, "pretrained_lr")):
        factor = factors[name] if name else 1.0
        others = [parameter for parameter in parameters if id(parameter) not in matrices]
        if others or not groups:
            groups.append({"params": others, "lr": config["lr"] * factor})
        if hidden := [parameter for parameter in parameters if id(parameter) in matrices]:
            groups.append({**own, "params": hidden, "lr": own["lr"] * factor, "matrices": True})
    optimizer: Optimizer = build({**arguments, "_partial_": True})(groups)
    return optimizer


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Matrices and kernels between two layers of features: all but the classifier's and those of theta's heads.

    The classifier is the fully connected layer that a network calls `classifier`.
    """
    last = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, Head)
        or (isinstance(module, nn.Linear) and name.rpartition(".")[2] == "classifier")
    }
    return [parameter for parameter in model.parameters() if parameter.ndim > 1 and id(parameter) not in last]


def _of_backbones(model: nn.Module) -> list[nn.Parameter]:
    from stn.models.backbones import Backbone  # imports torchvision, which is slow and only images need

    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    return [parameter for backbone in backbones for parameter in backbone.parameters()]


def one_cycle(
    optimizer: Optimizer,
    *,
    iterations: int,
    warmup: float = 0.25,
    hold: float = 0.0,
    start: float = 0.04,
    final: float = 0.0,
    fall: str = "cosine",
) -> LRScheduler:
    """One cycle (Smith 2018): the learning rate of each group rises to its peak and falls, both as a half cosine.

    Args:
        optimizer: the learning rates of its groups are the peaks.
        iterations: of the training.
        warmup: share of the iterations before the peak.
        hold: share of the iterations at the peak.
        start: first learning rate as a share of the peak.
        final: last learning rate as a share of the peak.
        fall: "cosine", or "linear" for a straight line.

    Raises:
        ValueError: for another `fall`.
    """
    if fall not in ("cosine", "linear"):
        raise ValueError(f"trainer.schedule.fall={fall} is not valid: it is cosine or linear.")
    peak = warmup * iterations

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
        held = hold * iterations
        fallen = min(max(step - peak - held, 0.0) / max(iterations - peak - held, 1), 1.0)
        left = 1 - fallen if fall == "linear" else (1 + math.cos(math.pi * fallen)) / 2
        return final + (1 - final) * left

    return LambdaLR(optimizer, factor)
