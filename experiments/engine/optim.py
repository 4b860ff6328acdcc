"""Optimiser and learning-rate schedule, with the localisation networks' own multiplier."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from experiments.engine.build import build
from stn import localisation_parameters


def make_optimizer(model: nn.Module, config: Mapping[str, Any], *, plain: bool = False) -> Optimizer:
    """The optimiser of `config`, in parameter groups: the rest, the localisation networks, pretrained backbones.

    config: `_target_` and its arguments; `lr`; `localisation_lr`, the factor on lr for everything that theta
    depends on. theta's gradient sums over all pixels, so it grows with the image; the factor answers that.
    `pretrained_lr`: the factor for all backbones, those of localisation networks too; left out or null: they are like
    everything around them.
    plain: leave out the update of all parameters in one kernel (`fused`), which gains a millisecond a step on a CPU.
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
    return build({**arguments, "_partial_": True})(groups)


def _of_backbones(model: nn.Module) -> list[nn.Parameter]:
    from stn.models.backbones import Backbone  # imports torchvision: slow, and needed by photographs alone

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
    """One cycle (Smith 2018): each group's learning rate rises to its own value and falls, both as a half cosine.

    warmup, hold: shares of the iterations before the peak and at it.
    start, final: first and last rate as a share of the peak's.
    """
    peak = warmup * iterations

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
        held = hold * iterations
        fallen = min(max(step - peak - held, 0.0) / max(iterations - peak - held, 1), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * fallen)) / 2

    return LambdaLR(optimizer, factor)
