"""Optimiser and learning-rate schedule, with learning rates of their own for localisation networks and backbones."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from experiments.engine.build import build
from stn import localisation_parameters


def make_optimizer(model: nn.Module, config: Mapping[str, Any], *, plain: bool = False) -> Optimizer:
    """Builds an optimiser with up to three parameter groups: the rest, localisation networks, pretrained backbones.

    Args:
        model: the network.
        config: `_target_` and its arguments, among them `lr`. `localisation_lr` is the factor on `lr` for the
            localisation networks: theta's gradient is a sum over all pixels, so it grows with the image.
            `pretrained_lr` is the factor for all backbones, those of localisation networks included; without it, or
            with None, a backbone belongs to the group of the network around it.
        plain: leave out `fused`, which updates all parameters in one kernel and saves a millisecond a step on a CPU.
    """
    factors = {name: config.get(name) for name in ("localisation_lr", "pretrained_lr")}
    arguments = {key: value for key, value in config.items() if key not in factors}
    if plain:
        arguments.pop("fused", None)
    pretrained = [] if factors["pretrained_lr"] is None else _of_backbones(model)
    taken = {id(parameter) for parameter in pretrained}
    localisation = [parameter for parameter in localisation_parameters(model) if id(parameter) not in taken]
    taken |= {id(parameter) for parameter in localisation}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    groups = [{"params": rest, "lr": config["lr"]}]
    for parameters, name in ((localisation, "localisation_lr"), (pretrained, "pretrained_lr")):
        if parameters:
            groups.append({"params": parameters, "lr": config["lr"] * factors[name]})
    optimizer: Optimizer = build({**arguments, "_partial_": True})(groups)
    return optimizer


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
) -> LRScheduler:
    """One cycle (Smith 2018): the learning rate of each group rises to its peak and falls, both as a half cosine.

    Args:
        optimizer: the learning rates of its groups are the peaks.
        iterations: of the training.
        warmup: share of the iterations before the peak.
        hold: share of the iterations at the peak.
        start: first learning rate as a share of the peak.
        final: last learning rate as a share of the peak.
    """
    peak = warmup * iterations

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
        held = hold * iterations
        fallen = min(max(step - peak - held, 0.0) / max(iterations - peak - held, 1), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * fallen)) / 2

    return LambdaLR(optimizer, factor)
