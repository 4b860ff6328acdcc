"""The run directory: its name, its configuration's hash, and whether to run, resume, skip or refuse.

`outputs/<experiment>/<model>-<transform>-<trainer>[,<other overrides>]/seed_<n>` holds config.json (written first),
metrics.jsonl, last.pt (the checkpoint), figures, and result.json, written last.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.engine.build import UserError
from experiments.engine.files import write_json

log = logging.getLogger(__name__)

# Where and how a run is carried out, as against what is run: none of it changes a result, so none is in the hash.
CIRCUMSTANCES = ("device", "data_dir", "output_dir", "threads", "wandb", "figures", "table")
INNER_CIRCUMSTANCES = {
    "trainer": (
        "log_every",
        "checkpoint_every",
        "hint",
        "snapshot_every",
        "channels_last",
    ),  # the last: of runs before it was a rule
    "optimizer": ("fused",),
}
ANYWHERE = (
    "data_dir",
    "cache_dir",
    "circumstances",
)  # at any depth; the last is where a task is told such things
RESOLVED = ("fast", "smoke")  # keys that only others are made of: what they come to stands in the trainer
LONGEST = 150  # characters of a run's name; a longer one ends in a hash of the whole
NAMED = (
    "experiment",
    "model",
    "transform",
    "trainer",
    "seed",
    "sweep",
    "launcher",
)  # overrides that the directory's name tells already, or that say nothing of this run
FAILURE = "failure.txt"


class BusyError(UserError):
    """Another process holds the run directory."""


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of a configuration that decides the result, resolved. It is what config_hash is made of."""
    kept = decisive(OmegaConf.to_container(cfg, resolve=True))
    if "transform" not in kept["model"]:
        kept.pop("transform", None)  # a network without an ST is the same network whatever the transform
    return kept


def decisive(config: Any) -> dict[str, Any]:
    """A configuration without the circumstances, such as an earlier version of this code may have stored with it."""

    def keep(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: keep(value) for key, value in node.items() if key not in ANYWHERE}
        return [keep(value) for value in node] if isinstance(node, list) else node

    kept = {key: value for key, value in keep(config).items() if key not in (*CIRCUMSTANCES, *RESOLVED)}
    for group, circumstances in INNER_CIRCUMSTANCES.items():
        if group in kept:
            kept[group] = {key: value for key, value in kept[group].items() if key not in circumstances}
    return kept


def config_hash(config: dict[str, Any]) -> str:
    """16 hex digits of the sha256 of the sorted JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def transform_name(config: dict[str, Any] | DictConfig) -> str | None:
    return config["transform"]["name"] if "transform" in config["model"] else None


def run_name(cfg: DictConfig, overrides: Iterable[str] = ()) -> str:
    """overrides: the command line's, such as "optimizer.lr=0.1". Those that change no result are left out."""
    parts = [cfg.model.name, transform_name(cfg), cfg.trainer.name]
    extra = []
    for override in sorted(overrides):
        key = override.lstrip("+~").split("=")[0]
        first, _, second = key.partition(".")
        ignored = first in (*CIRCUMSTANCES, "hydra") or second in INNER_CIRCUMSTANCES.get(first, ())
        if key not in NAMED and not ignored:
            extra.append(override.lstrip("+").replace("/", "_").replace(" ", ""))
    name = ",".join(["-".join(p for p in parts if p), *extra])
    return shortened(name, LONGEST)  # file systems end at 255 bytes


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters; one cut short ends in a hash of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_dir(cfg: DictConfig, overrides: Iterable[str] = ()) -> Path:
    return Path(cfg.output_dir) / cfg.experiment / run_name(cfg, overrides) / f"seed_{cfg.seed}"


def finished(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result that stands in the folder, or None where there is still something to do.

    raises: UserError where the folder belongs to another configuration, naming the keys that differ.
    """
    for name in ("result.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            held = json.loads(path.read_text())
            theirs = decisive(held["config"] if name == "result.json" else held)
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete the folder to run anew.") from error
        if theirs != config:
            changes = ", ".join(differences(theirs, config))
            raise UserError(
                f"{folder} holds a run of another configuration; it differs in {changes}. "
                "Delete the folder, or give another output_dir=."
            )
        if name == "result.json":
            return held
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    return None


def held_result(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a file, where it is one of this very configuration.

    raises: UserError where the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text())
        return held if decisive(held["config"]) == config else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it to run this anew.") from error


def failure(folder: Path) -> str:
    """Why the last attempt at a run failed, in one line; "" where it did not, or could not say."""
    path = folder / FAILURE
    return path.read_text().strip() if path.exists() else ""


@contextlib.contextmanager
def telling_failure(folder: Path) -> Iterator[None]:
    """Keeps in the run directory, in one line, why an attempt failed. For whoever looks after many runs."""
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        known = isinstance(error, UserError | FileNotFoundError | FloatingPointError)
        text = " ".join(str(error).split())
        (folder / FAILURE).write_text(f"{'' if known else f'{type(error).__name__}: '}{text}\n")
        raise


def differences(theirs: Any, ours: Any, prefix: str = "") -> list[str]:
    """The keys in which two configurations differ, each as "key (theirs -> ours)"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key in sorted({*theirs, *ours}):
            found += differences(theirs.get(key), ours.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if theirs == ours else [f"{prefix} ({theirs} -> {ours})"]


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the run directory for this process.

    wait: until another process lets go of it.   raises: BusyError where another process holds it and it is not waited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not wait:
                raise BusyError(
                    f"Another process is training {folder}: wait for it, or stop it first."
                ) from error
            log.info("Waiting for another process that is training %s.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
