"""Configurations composed in code, as the command line composes them, also while Hydra runs a program."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from experiments.engine.files import ROOT
from experiments.engine.machine import usual_jobs

CONFIGS = ROOT / "configs"
OmegaConf.register_new_resolver("usual_jobs", usual_jobs, replace=True)  # in configs/launcher


@contextlib.contextmanager
def composing() -> Iterator[Callable[[Iterable[str]], DictConfig]]:
    """Gives the function overrides -> configuration; many are made faster in one such context.

    Hydra's global state is left as it was found. Not for several threads at once: Hydra has one such state.
    """
    state = GlobalHydra.instance()
    outer = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield lambda overrides: compose("train", list(overrides))
    finally:
        GlobalHydra.instance().hydra = outer  # another object by now: Hydra keeps and restores a copy


def configuration(overrides: Iterable[str]) -> DictConfig:
    """The configuration that `python train.py <overrides>` runs."""
    with composing() as make:
        return make(overrides)
