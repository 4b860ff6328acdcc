"""A longer run goes on from the checkpoint of a shorter one whose steps are its first ones."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError
from experiments.engine.files import write_atomically
from experiments.engine.identity import differences, identity
from experiments.engine.interfaces import Task

log = logging.getLogger(__name__)


def adopt(folder: Path, cfg: DictConfig, task: Task, *, validates: bool) -> None:
    """Puts the checkpoint of a shorter run into a run directory that has none, where training goes on from it.

    The shorter run is of the same experiment and seed in the same output_dir, and differs in `trainer.iterations`
    alone. Its steps are then those that this run would begin with, to the bit, unless the task follows the share of the
    training that is done. Its own directory stays as it is. Where it differs in the learning rates too, because they
    follow from the number of steps, a sentence says so, and this run starts at step 0.

    Args:
        folder: the run directory.
        cfg: of the run.
        task: of the run.
        validates: whether images are held out, on which it is validated.
    """
    if rundir.has_checkpoint(folder):
        return
    found = sorted(_shorter(folder, cfg), key=lambda one: one[1]["iterations"], reverse=True)
    ours, refusals = identity(cfg)["trainer"], []
    every = cfg.trainer.val_every if validates else cfg.trainer.log_every
    for theirs, trainer in found:
        if changed := differences({"schedule": trainer["schedule"]}, {"schedule": ours["schedule"]}):
            why = f"trainer.{', trainer.'.join(changed)} gives each step another learning rate"
        elif task.paced:
            why = f"{type(task).__name__} follows the share of the training that is done"
        elif (state := _passed(theirs, trainer["iterations"], every)) is None:
            continue
        else:
            _take(theirs, state, folder)
            log.info("The first %d steps are those of %s: going on from there.", state["step"], theirs)
            return
        refusals.append((theirs, trainer["iterations"], why))
    for theirs, iterations, why in refusals[:1]:
        log.info(
            "%s is a run of %d steps, but they are not the first of this run: %s. This run starts at step 0; "
            "init_from=%s starts it from those weights.",
            theirs, iterations, why, theirs,
        )  # fmt: skip


def _shorter(folder: Path, cfg: DictConfig) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The run directories with a checkpoint that differ in fewer steps, and maybe the schedule; their `trainer`."""
    ours = identity(cfg)
    for path in rundir.alike(cfg):
        try:
            theirs = identity(json.loads(path.read_text()))
            trainer = theirs["trainer"]
            same = _but_length(theirs) == _but_length(ours) and "schedule" in trainer
            fewer = same and trainer["iterations"] < ours["trainer"]["iterations"]
        except (OSError, ValueError, AttributeError, KeyError, TypeError):  # no run's, or damaged
            continue
        if fewer and path.parent != folder and (path.parent / checkpoint.LAST).exists():
            yield path.parent, trainer


def _but_length(config: dict[str, Any]) -> dict[str, Any]:
    trainer = {
        key: value for key, value in config["trainer"].items() if key not in ("iterations", "schedule")
    }
    return {**config, "trainer": trainer}


def _passed(folder: Path, iterations: int, every: int) -> dict[str, Any] | None:
    """The newest checkpoint of a run that a longer one comes through too.

    At its last step a run also logs, validates and keeps the best weights. The longer one does so at multiples of
    `every` only.
    """
    for name in (checkpoint.LAST, checkpoint.BEFORE):
        try:
            state = checkpoint.load(folder / name)
            if state["step"] < iterations or state["step"] % every == 0:
                return state
        except (UserError, FileNotFoundError, KeyError, TypeError):  # damaged, or there is none
            continue
    return None


def _take(theirs: Path, state: dict[str, Any], folder: Path) -> None:
    """The log and the snapshots up to the checkpoint, and the checkpoint last: a kill in between leaves a run at 0."""
    if (theirs / "metrics.jsonl").exists():  # lines after the checkpoint fall away when training goes on
        _copy(theirs / "metrics.jsonl", folder / "metrics.jsonl")
    for step, path in checkpoint.snapshots(theirs).items():
        if step <= state["step"]:
            _copy(path, checkpoint.snapshot_path(folder, step))
    checkpoint.save(folder / checkpoint.LAST, state)


def _copy(source: Path, target: Path) -> None:
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))
