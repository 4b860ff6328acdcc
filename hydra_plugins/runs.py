"""Hydra's plugins of this repository (Hydra finds them in this folder): a sweeper that makes every run once and skips
finished ones, and a launcher of several runs at a time."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


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
        from experiments.engine.cli import one_sentence_errors

        with one_sentence_errors():  # here, since Hydra shows all but the end of the program as a traceback
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> Any:
        from experiments.engine.run import check  # torch takes seconds to import
        from experiments.sweeps.job import INTERRUPTED, Job, exit_status
        from experiments.sweeps.sweep import sweep

        launcher = self.launcher
        assert launcher is not None and self.config is not None
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        jobs = [Job.of(_compose(self, words), words) for words in self._expand(arguments)]
        try:
            outcomes = sweep(
                jobs,
                check,
                lambda words: launcher.launch(words, initial_job_idx=0),
                elsewhere=OmegaConf.select(self.config, "hydra.launcher.array_parallelism"),  # of Slurm
            )
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
        if not Path(self.file).is_file():
            raise FileNotFoundError(
                f"hydra.sweeper.file={self.file} is no file: name one with a run on each line."
            )
        lines = Path(self.file).read_text().splitlines()
        return [[*shlex.split(line), *arguments] for line in lines if line.strip()]


class SideBySide(BasicLauncher):
    """Several runs at a time on this machine, each in a process of its own.

    Args:
        n_jobs: how many, from 1.
    """

    def __init__(self, n_jobs: int) -> None:
        super().__init__()
        self.n_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from experiments.engine.build import UserError
        from experiments.sweeps.job import Job
        from experiments.sweeps.sweep import side_by_side

        if self.n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs={self.n_jobs} is not valid: it is a whole number from 1.")
        jobs = [Job.of(_compose(self, words), words) for words in job_overrides]
        ends = []
        for words, outcome in zip(job_overrides, side_by_side(jobs, at_once=self.n_jobs), strict=True):
            ends.append(JobReturn(overrides=words, status=JobStatus.COMPLETED))
            ends[-1].return_value = outcome
        return ends


def _compose(plugin: RunSweeper | SideBySide, overrides: Sequence[str]) -> DictConfig:
    assert plugin.hydra_context is not None and plugin.config is not None
    cfg = plugin.hydra_context.config_loader.load_sweep_config(plugin.config, list(overrides))
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg
