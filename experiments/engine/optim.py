"""Optimiser and learning-rate schedule, with the localisation networks' own multiplier."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from experiments.engine.build import build
from stn import localisation_parameters


def make_optimizer(model: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """The optimiser of `config`, in two parameter groups: the localisation networks and the rest.

    config: `_target_` and its arguments; `lr`; `localisation_lr`, the factor on lr for everything that theta
    depends on. theta's gradient sums over all pixels, so it grows with the image; the factor answers that.
    """
    arguments = {key: value for key, value in config.items() if key != "localisation_lr"}
    localisation = localisation_parameters(model)
    mine = {id(parameter) for parameter in localisation}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in mine]
    groups = [{"params": rest, "lr": config["lr"]}]
    if localisation:
        groups.append({"params": localisation, "lr": config["lr"] * config["localisation_lr"]})
    return build({**arguments, "_partial_": True})(groups)


def one_cycle(
    optimizer: Optimizer, *, iterations: int, warmup: float = 0.25, final: float = 1e-4
) -> LRScheduler:
    """One cycle (Smith 2018) that peaks at each group's own learning rate and ends at `final` of its start.

    warmup: share of the iterations before the peak.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=iterations,
        pct_start=warmup,
        cycle_momentum=False,
        final_div_factor=1 / final,
    )
