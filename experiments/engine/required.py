"""Runs that have to be finished before another one: what `requires` in a configuration names.

`requires` lists keys of the configuration. Under each stand `overrides`, those of the run that is needed, and
`run_dir`, which is null, or the directory of a finished run to take instead.
"""

from __future__ import annotations

import copy
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.overrides import word

if TYPE_CHECKING:  # it imports torch, which train.py --help does not need
    from experiments.engine.interfaces import Section

log = logging.getLogger(__name__)

Compose = Callable[[Iterable[str]], DictConfig]
# A required run has those of the run that needs it: they decide no result.
SHARED = (
    "device",
    "threads",
    "data_dir",
    "output_dir",
    "wandb.mode",
    "wandb.project",
    "wandb.entity",
    "wandb.artifacts",
)


@dataclass(frozen=True)
class Required:
    """A run that another one needs.

    Attributes:
        key: of the configuration that needs it, such as `task.embedding`.
        overrides: of `train.py`.
        cfg: the configuration that they make.
        folder: its run directory.
    """

    key: str
    overrides: tuple[str, ...]
    cfg: DictConfig
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether its run directory holds the result of this very configuration."""
        return rundir.held_result(self.folder / "result.json", self.cfg) is not None

    @property
    def command(self) -> str:
        """The command that makes it."""
        return shlex.join(["python", "train.py", *self.overrides])


def required(cfg: DictConfig, make: Compose = configuration) -> list[Required]:
    """The runs that a configuration needs, finished or not.

    Args:
        cfg: composed by `configs/train.yaml`.
        make: overrides -> configuration; `composing()` gives a faster one for many.

    Raises:
        UserError: for a key in `requires` under which no run is named.
    """
    found = []
    for key in cfg.get("requires") or ():
        node = OmegaConf.select(cfg, key)
        if not isinstance(node, DictConfig) or not {"overrides", "run_dir"} <= node.keys():
            raise UserError(f"requires={key} is not valid: {key} has no overrides and run_dir.")
        if node.run_dir is None:
            found.append(_required(key, tuple(node.overrides), cfg, make))
    return found


def _required(key: str, overrides: tuple[str, ...], cfg: DictConfig, make: Compose) -> Required:
    theirs = copy.deepcopy(_composed(overrides, make))
    shared = []
    for name in SHARED:
        value = OmegaConf.select(cfg, name)
        if value != OmegaConf.select(theirs, name):
            OmegaConf.update(theirs, name, value)
            shared.append(word(name, value))
    return Required(key, (*overrides, *shared), theirs, rundir.run_dir(theirs, overrides))


@lru_cache(maxsize=64)
def _composed(overrides: tuple[str, ...], make: Compose) -> DictConfig:
    return make(overrides)


def with_run_dirs(cfg: DictConfig) -> DictConfig:
    """The configuration with the directories of the required runs under `run_dir`, in place of their overrides.

    Raises:
        UserError: where one is not finished; it gives the command.
    """
    filled = copy.deepcopy(cfg)
    for one in required(cfg):
        if not one.finished:
            raise UserError(f"{one.key} needs a run that is not finished: {one.command}")
        OmegaConf.update(filled, f"{one.key}.run_dir", str(one.folder))
    for key in cfg.get("requires") or ():
        with open_dict(filled):
            del OmegaConf.select(filled, key)["overrides"]
    return filled


def run_required(cfg: DictConfig, sections: Mapping[str, Section] = MappingProxyType({})) -> None:
    """Runs what a configuration needs and what is not finished, in this process.

    While another process trains it, this one waits.

    Raises:
        UserError: as `run`; and in a training of several processes, which make one run only.
    """
    from experiments.engine.run import run  # it imports this module

    for one in required(cfg):
        if one.finished:
            continue
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(f"{one.key} needs a run that is not finished: {one.command}")
        log.info("%s needs a run that is not finished, which comes first: %s", one.key, one.command)
        run_required(one.cfg, sections)
        run(one.cfg, one.overrides, sections, wait=True)
