"""Hydra's sweeper of this repository (Hydra finds plugins in this folder): every run once, finished ones skipped."""

import shlex
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict, read_write


class RunSweeper(BasicSweeper):
    """The product of all choices, as Hydra's basic sweeper has it, handed to the launcher at once.

    params: as of the basic sweeper, key -> choices; the command line's win.
    file: a list of runs instead, a line each of what train.py is told; the command line's overrides are added to each.
    Ends the program, after a summary, with status 1 where a run has failed or is open, and 130 on Ctrl-C.
    """

    def __init__(self, params: dict[str, str] | None = None, file: str | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.file = file

    def sweep(self, arguments: list[str]) -> Any:
        from experiments.engine.run import check  # torch takes seconds to import
        from experiments.sweeps.job import INTERRUPTED, Job, exit_status
        from experiments.sweeps.sweep import sweep

        launcher = self.launcher
        assert launcher is not None and self.config is not None
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        jobs = [Job.of(self._compose(words), words) for words in self._expand(arguments)]
        try:
            outcomes = sweep(jobs, check, lambda words: launcher.launch(words, initial_job_idx=0))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        if status := exit_status(outcomes):
            sys.exit(status)
        return outcomes

    def _expand(self, arguments: list[str]) -> list[list[str]]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        if self.file is None:
            return self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)[0]
        lines = Path(self.file).read_text().splitlines()
        return [[*shlex.split(line), *arguments] for line in lines if line.strip()]

    def _compose(self, overrides: list[str]) -> DictConfig:
        assert self.hydra_context is not None and self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return cfg
