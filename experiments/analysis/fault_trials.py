"""Runs trials of what a run survives, and writes the page of them: results/faults.json -> results/faults.md."""

import datetime
import fnmatch
import inspect
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.analysis.fault_kinds import KINDS
from experiments.analysis.fault_starts import Starting
from experiments.analysis.faults import Fault, Reference, Trial
from experiments.engine.build import UserError
from experiments.engine.files import write_atomically, write_json
from experiments.engine.provenance import git_revision, versions
from experiments.report import markdown_table

log = logging.getLogger(__name__)

COMMAND = "python scripts/faults.py"
TINY = """trainer: {iterations: 12, batch_size: 8, log_every: 2, checkpoint_every: 4, val_every: 4}
model: {width: 4}
wandb: {mode: disabled}
figures: false
threads: 1
device: cpu
"""
# The main files of the runs. As overrides, the same values would take train.py seconds to find the run's name.
CONFIGS = {
    "digits": "defaults: [train, override model: st_cnn_bn, override dataset: digits, override trainer: smoke, _self_]\n"
    f"dataset: {{val_size: 40}}\n{TINY}",
    "images": "defaults: [train, override experiment: own_images, override model: st_cnn_bn, override transform: affine,"
    f" override trainer: smoke, _self_]\ndataset: {{size: 32, root: images}}\n{TINY}",
}


class Lab:
    """Where trials are made.

    Args:
        folder: for their files; it must not exist, or be empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs").mkdir(parents=True)
        for name, text in CONFIGS.items():
            (folder / "configs" / f"{name}.yaml").write_text(text)
        self._references: dict[tuple[str, ...], Reference] = {}

    def trial(self, name: str) -> dict[str, Any]:
        """Makes one trial.

        Args:
            name: `<kind>-<number>`.

        Returns:
            `name`; `starts`, how each start of it ended; `fault`, None or what is wrong; `seconds`.
        """
        kind, config, more = KINDS[name.rpartition("-")[0]]
        began = time.perf_counter()
        reference = self._reference(config, *more)
        folder = _made(self.folder / name, config)
        trial = Trial(name, folder, reference, _command(config, *more))
        fault = None
        try:
            kind(trial)
            trial.finish()
            shutil.rmtree(folder)
        except Fault as error:
            fault = str(error)
        seconds = round(time.perf_counter() - began, 1)
        return {"name": name, "starts": trial.starts, "fault": fault, "seconds": seconds}

    def _reference(self, config: str, *more: str) -> Reference:
        if (config, *more) not in self._references:
            folder = _made(self.folder / "-".join(["undisturbed", config, *more]), config)
            ended = Starting(_command(config, *more), folder, moment=None).end()
            found = list((folder / "outputs").glob("*/*/*/result.json"))
            if ended.status != 0 or len(found) != 1 or ended.calls is None:
                raise RuntimeError(f"The undisturbed run fails with exit status {ended.status}: {ended.said}")
            run = found[0].parent
            reference = Reference(run, run.relative_to(folder / "outputs"), ended.calls)
            self._references[config, *more] = reference
        return self._references[config, *more]

def _command(config: str, *more: str) -> list[str]:
    """Of a run, in the folder of its own that it is given in."""
    return ["--config-dir=../configs", f"--config-name={config}", *more]


def _made(folder: Path, config: str) -> Path:
    """The folder, with images in it where the runs are of images."""
    folder.mkdir()
    if config == "images":
        _draw(folder / "images")
    return folder


def _draw(folder: Path) -> None:
    """Two classes of eight noisy images."""
    noise = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            pixels = noise.integers(0, 256, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


def run(names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Makes trials, one after the other, and gives the record of each.

    Args:
        names: of the trials.
        folder: for their files, as of `Lab`; those of a trial with a fault are kept.
    """
    lab = Lab(folder)
    for name in names:
        record = lab.trial(name)
        log.info("%s: %s", name, record["fault"] or f"as undisturbed, after {_count(record)} starts")
        yield record


def planned(count: int, only: str = "*") -> list[str]:
    """The names of so many trials, of all kinds in turn, of which those are left that `only` matches.

    Raises:
        UserError: none is left.
    """
    names = [f"{list(KINDS)[i % len(KINDS)]}-{i // len(KINDS)}" for i in range(count)]
    if not (left := fnmatch.filter(names, only)):
        raise UserError(f"--only {only} is none of {count} trials: their kinds are {', '.join(KINDS)}.")
    return left
