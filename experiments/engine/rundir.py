"""The run directory: its name, its configuration's hash, and whether to run, resume, skip or refuse.

`outputs/<experiment>/<model>-<transform>-<trainer>[,<other overrides>]/seed_<n>` holds config.json (written first),
metrics.jsonl, last.pt (the checkpoint), figures, and result.json, written last.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from experiments.engine.build import UserError
from experiments.engine.files import write_json
from experiments.engine.identity import decides, differences, identity, stored, transform_name
from experiments.engine.result import Result

log = logging.getLogger(__name__)

LONGEST = 150  # characters of a run's name; a longer one ends in a hash of the whole
# Overrides that the directory's path has already, or that do not belong to one run.
IN_PATH = ("experiment", "model", "transform", "trainer", "seed", "sweep", "launcher", "hydra")
FAILURE = "failure.txt"


class BusyError(UserError):
    """Another process holds the run directory."""


def run_name(cfg: DictConfig, overrides: Iterable[str] = ()) -> str:
    """overrides: the command line's, such as "optimizer.lr=0.1". Those that change no result are left out."""
    parts = [cfg.model.name, transform_name(cfg), cfg.trainer.name]
    extra = []
    for override in sorted(overrides):
        key = override.lstrip("+~").split("=")[0]
        if key not in IN_PATH and not key.startswith("hydra.") and decides(key):
            extra.append(override.lstrip("+").replace("/", "_").replace(" ", ""))
    name = ",".join(["-".join(p for p in parts if p), *extra])
    return shortened(name, LONGEST)  # file systems end at 255 bytes


def shortened(name: str, longest: int) -> str:
    """Returns the name with at most so many characters; a shortened one ends in a hash of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_dir(cfg: DictConfig, overrides: Iterable[str] = ()) -> Path:
    """Returns the run directory of a configuration.

    Args:
        cfg: the configuration.
        overrides: as of `run_name`.
    """
    return Path(cfg.output_dir) / cfg.experiment / run_name(cfg, overrides) / f"seed_{cfg.seed}"


def finished(folder: Path, cfg: DictConfig) -> Result | None:
    """Returns the result in the folder; None, with config.json written, where the run is not finished.

    Raises:
        UserError: where the folder belongs to another configuration; it names the keys that differ.
    """
    for name in ("result.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            held = json.loads(path.read_text())
            theirs, ours = identity(held["config"] if name == "result.json" else held), identity(cfg)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete the folder to run anew.") from error
        if theirs != ours:
            raise UserError(
                f"{folder} holds a run of another configuration; it differs in "
                f"{', '.join(differences(theirs, ours))}. Delete the folder, or give another output_dir=."
            )
        if name == "result.json":
            return Result.from_dict(held, path)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", stored(cfg))
    return None


def held_result(path: Path, cfg: DictConfig | Mapping[str, Any]) -> Result | None:
    """Returns the result in a file; None where there is none, or it is of another configuration.

    Raises:
        UserError: where the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        result = Result.read(path)
    except UserError as error:
        raise UserError(f"{path} cannot be read ({error}): delete it to run this anew.") from error
    return result if result.is_of(cfg) else None


def failure(folder: Path) -> str:
    """Returns in one line why the last attempt at a run failed; "" where nothing was recorded."""
    path = folder / FAILURE
    return path.read_text().strip() if path.exists() else ""


@contextlib.contextmanager
def recorded_failure(folder: Path) -> Iterator[None]:
    """Records an exception in failure.txt of the run directory, in one line, for the summary of a sweep."""
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        known = isinstance(error, UserError | FileNotFoundError | FloatingPointError)
        text = " ".join(str(error).split())
        (folder / FAILURE).write_text(f"{'' if known else f'{type(error).__name__}: '}{text}\n")
        raise


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of the run directory. The operating system releases it when the process ends or is killed.

    Args:
        folder: the run directory; it is made if it does not exist.
        wait: whether to wait for another process that holds it.

    Raises:
        BusyError: another process holds it, and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise BusyError(
                f"Another process is training {folder}: wait for it, or stop it first."
            ) from error
        log.info("Waiting for another process that is training %s.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
