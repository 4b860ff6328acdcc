"""A trained network and what it was made for, from a run directory, which may be somebody else's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError, build, with_arguments
from experiments.engine.classes import class_names
from experiments.engine.interfaces import Data

MADE_FOR = "made_for"  # the key of a checkpoint under which `made_for` stands


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: in evaluation mode.
        config: the stored configuration.
        in_shape: of an image, as the network takes it.
        num_classes: None for images without classes.
        classes: their names, where they have any; else numbers, from 0.
        step: that the weights are of.
    """

    network: nn.Module
    config: dict[str, Any]
    in_shape: tuple[int, ...]
    num_classes: int | None
    classes: tuple[str, ...]
    step: int

    @property
    def progress(self) -> str:
        """Of which step the weights are, and of how many."""
        steps = self.config["trainer"]["iterations"]
        if self.step == steps:
            return f"the weights of step {self.step}, the last"
        return f"the weights of step {self.step} of {steps}: the run is not finished"


def made_for(data: Data) -> dict[str, Any]:
    """What a network was made for, which a checkpoint keeps: the data need not be there to use it."""
    return {
        "in_shape": list(data.in_shape),
        "num_classes": data.num_classes,
        "classes": class_names(data),
    }


def read_run(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the configuration and the last checkpoint of a run.

    Args:
        folder: the run directory.

    Raises:
        UserError: one of the files is missing or damaged.
    """
    folder = Path(folder)
    for name in ("config.json", checkpoint.LAST):
        if not (folder / name).exists():
            raise UserError(f"{folder} has no {name}: give the directory of a run that has trained.")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error}).") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} is no configuration of a run.")
    # last.pt and no other: an earlier checkpoint would not be what result.json is about
    return config, checkpoint.load(folder / checkpoint.LAST)


def make_network(
    cfg: DictConfig, in_shape: tuple[int, ...], num_classes: int | None, device: torch.device
) -> Any:  # not nn.Module: it is no target of a configuration
    """Builds the freshly initialised network of a configuration, as `interfaces.Network`."""
    classes = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = build(cfg.model, in_shape=in_shape, **classes).to(device)
    if cfg.trainer.precision != "plain":
        for layer in model.modules():  # one by one: the format does not exist for volumes
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
    return model


def load_weights(model: nn.Module, state: Mapping[str, Any], folder: str | Path) -> None:
    """Gives a network the weights of a checkpoint.

    Raises:
        UserError: they are of another network.
    """
    try:
        model.load_state_dict(state["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        path = Path(folder) / checkpoint.LAST
        raise UserError(f"{path} holds no weights of the network that config.json names.") from error


def load_network(
    folder: str | Path,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    device: torch.device | str = "cpu",
) -> Trained:
    """Loads the network of a run that has trained, finished or not, without its data.

    A checkpoint of an earlier version does not say what its network was made for: then the data are built, as by
    `load_run`. What is safe there is safe here.

    Args:
        folder: a run directory with config.json and last.pt.
        arguments: what the stored configuration leaves out, such as {"data_dir": ...}.
        device: of the network.

    Raises:
        UserError: one of the files is missing, damaged, or names what is not `build.offered`.
    """
    config, state = read_run(folder)
    cfg = OmegaConf.create(with_arguments(config, arguments))
    known = state.get(MADE_FOR)
    if known is None:
        known = made_for(build(cfg.dataset, seed=cfg.seed, device="cpu"))
    try:
        in_shape, number = tuple(map(int, known["in_shape"])), known["num_classes"]
        number = None if number is None else int(number)
        names = tuple(map(str, known["classes"])) or tuple(map(str, range(number or 0)))
        step = int(state["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{Path(folder) / checkpoint.LAST} does not say what its network was made for."
        ) from error
    model = make_network(cfg, in_shape, number, torch.device(device))
    load_weights(model, state, folder)
    return Trained(model.eval(), config, in_shape, number, names, step)
