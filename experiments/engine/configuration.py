"""Configurations composed in code, as the command line composes them, also while Hydra runs a program."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.engine.files import ROOT
from experiments.engine.machine import usual_jobs

CONFIGS = ROOT / "configs"


def schedule_value(key: str, default: Any, *, _root_: DictConfig) -> Any:
    """`${schedule:lr,0.003}`: what the experiment says of a key for the trainer that is chosen, or the default.

    An experiment's values for a schedule stand under `schedules.<trainer.name>` and are read here alone.
    """
    return OmegaConf.select(_root_, f"schedules.{_root_.trainer.name}.{key}", default=default)


def weights_of(run: str | None) -> str | None:
    """`${weights_of:FOLDER}`: the sha256 of a run's weights; null of null."""
    if run is None:
        return None
    # torch: slow to import, and train.py --help needs none
    from experiments.engine.initial import weights_sha256

    return weights_sha256(run)


def images_in(key: str, *, _root_: DictConfig) -> dict[str, Any] | None:
    """`${images_in:dataset.root}`: what the folder of images under a key holds, as `content_of` tells.

    It is a part of the configuration, so that other images under the same path make another run, and the same images
    under another path the same one. None where there is no such folder or it is refused: building the data says why.
    """
    root = OmegaConf.select(_root_, key)
    if root is None:
        return None
    from stn.datasets.folder_layout import content_of, read_layout  # torch: slow to import

    try:
        return content_of(read_layout(str(root)))
    except (OSError, ValueError):
        return None


OmegaConf.register_new_resolver("schedule", schedule_value, replace=True)
OmegaConf.register_new_resolver("weights_of", weights_of, replace=True)
OmegaConf.register_new_resolver("images_in", images_in, replace=True)
OmegaConf.register_new_resolver("usual_jobs", usual_jobs, replace=True)  # in configs/launcher


@dataclass(frozen=True)
class Files:
    """Where configurations are composed from.

    Attributes:
        name: of the main file (`--config-name`).
        extra: a folder searched before configs/ (`--config-dir`), or None.
    """

    name: str = "train"
    extra: str | None = None

    @classmethod
    def in_use(cls) -> "Files":
        """Those that the running program was started with, as Hydra tells; the usual ones outside of Hydra."""
        if not HydraConfig.initialized():
            return cls()
        cfg = HydraConfig.get()
        extra = [one.path for one in cfg.runtime.config_sources if one.provider == "command-line"]
        return cls(str(cfg.job.config_name), extra[0] if extra else None)

    @property
    def options(self) -> list[str]:
        """The options of `train.py` that choose them."""
        name = [] if self.name == "train" else ["--config-name", self.name]
        return name + (["--config-dir", self.extra] if self.extra else [])


@contextlib.contextmanager
def composing(files: Files | None = None) -> Iterator[Callable[[Iterable[str]], DictConfig]]:
    """Gives the function overrides -> configuration; many are made faster in one such context.

    Hydra's global state is left as it was found. Not for several threads at once: Hydra has one such state.

    Args:
        files: to compose from; those in use where it is None.
    """
    files = files or Files.in_use()
    state = GlobalHydra.instance()
    outer = state.hydra
    state.clear()
    path = create_config_search_path(str(CONFIGS))
    if files.extra:  # where Hydra puts it too
        path.prepend("command-line", f"file://{files.extra}", SearchPathQuery(provider="schema"))
    try:
        Hydra.create_main_hydra2(task_name="app", config_search_path=path)
        yield lambda overrides: compose(files.name, list(overrides))
    finally:
        GlobalHydra.instance().hydra = outer  # another object by now: Hydra keeps and restores a copy


def configuration(overrides: Iterable[str]) -> DictConfig:
    """The configuration that `python train.py <overrides>` runs."""
    with composing() as make:
        return make(overrides)


def groups() -> list[str]:
    """The groups of configs that an override can choose from, inside `composing()`. Hydra's own are left out."""
    return [name for name in GlobalHydra.instance().config_loader().list_groups("") if name != "hydra"]


def options(group: str) -> list[str]:
    """The configs of a group, inside `composing()`."""
    return GlobalHydra.instance().config_loader().get_group_options(group)
