"""The run directory: its name, its configuration's hash, and whether to run, resume, skip or refuse.

`outputs/<experiment>/<model>-<transform>-<trainer>[,<other overrides>]/seed_<n>` holds config.json (written first),
metrics.jsonl, last.pt and before.pt (the last two checkpoints), result.json, and figures.
"""

import contextlib
import glob
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.engine.build import UserError
from experiments.engine.configuration import Files, composing, groups, weights_of
from experiments.engine.files import write_json
from experiments.engine.identity import decides, differences, identity, stored, transform_name
from experiments.engine.overrides import Overrides, word
from experiments.engine.result import Result

log = logging.getLogger(__name__)

LAST, BEFORE = "last.pt", "before.pt"  # the newest checkpoint, and the one before it

LONGEST = 150  # characters of a run's name; a longer one ends in a hash of the whole
# The first part of a name says these.
IN_PATH = ("experiment", "model", "transform", "trainer")
# These belong to no single run, or stand beside its name.
NOT_IN_NAME = ("seed", "sweep", "launcher", "hydra")
FAILURE = "failure.txt"


class BusyError(UserError):
    """Another process holds the run directory."""


def run_name(cfg: DictConfig, overrides: Overrides | Iterable[str] = ()) -> str:
    """The one name of a run: model, transform and trainer, then the overrides that decide something.

    An override that is given again later, that changes nothing, or that is a circumstance is left out, and a value has
    one spelling. `optimizer.lr=1e-1` and `seed=0 optimizer.lr=3 optimizer.lr=0.10` give the same name.

    Args:
        cfg: what the overrides make.
        overrides: the command line's, such as "optimizer.lr=0.1".
    """
    given = overrides if isinstance(overrides, Overrides) else Overrides.parse(overrides)
    words = given.without(*NOT_IN_NAME).only(decides).words
    return shortened(",".join([_network(cfg), *_deciding(Files.in_use(), tuple(words))]), LONGEST)


def _network(cfg: DictConfig) -> str:
    return "-".join(filter(None, [cfg.model.name, transform_name(cfg), cfg.trainer.name]))


@lru_cache(maxsize=10_000)
def _deciding(files: Files, words: tuple[str, ...]) -> list[str]:
    """The overrides without which the run would be another, each spelt in one way. Cached: seeds share them."""
    given = Overrides.parse(words)
    fixed = given.only(lambda key: key in IN_PATH).words
    further = sorted(given.only(lambda key: key not in IN_PATH), key=lambda one: one.key_or_group)
    kept = {one.key_or_group: one for one in further}
    for key in list(kept):  # one by one: of two that say the same, one stays
        fewer = [one for one in kept.values() if one.key_or_group != key]
        made = _made(files, fixed, list(kept.values()))
        if made is not None and made == _made(files, fixed, fewer):
            del kept[key]
    return [_spelt(one) for one in kept.values()]


def _made(files: Files, fixed: Sequence[str], overrides: Sequence[Override]) -> dict[str, Any] | None:
    """The identity that overrides make; None where they make no configuration."""
    groups = [one for one in overrides if "/" in one.key_or_group or one.key_or_group in _groups(files)]
    try:
        cfg = _composed(files, (*fixed, *(str(one.input_line) for one in groups))).copy()
        for one in overrides:
            parent, _, name = one.key_or_group.rpartition(".")
            if one in groups:
                continue
            if one.is_delete():
                with open_dict(cfg):
                    OmegaConf.select(cfg, parent).pop(name) if parent else cfg.pop(name)
            else:
                OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True, force_add=True)
        return identity(cfg)
    except (HydraException, OmegaConfBaseException):
        return None


@lru_cache(maxsize=1000)
def _composed(files: Files, words: tuple[str, ...]) -> DictConfig:
    with composing(files) as make:
        return make(words)


@lru_cache
def _groups(files: Files) -> frozenset[str]:
    with composing(files):
        return frozenset(groups())


def _spelt(override: Override) -> str:
    """key=value, or ~key, with no character that a folder's name cannot have."""
    key = override.get_key_element().lstrip("+")
    value = override.value()
    if key == "init_from" and isinstance(value, str):  # by what is there, as in the identity
        value = str(weights_of(value))[:8]
    text = value if isinstance(value, str) else word("", _number(value)).removeprefix("=")
    return (key if override.is_delete() else f"{key}={text}").replace("/", "_").replace(" ", "")


def _number(value: Any) -> Any:
    """The value with 1 for 1.0, which are equal in an identity."""
    if isinstance(value, list):
        return [_number(one) for one in value]
    if isinstance(value, dict):
        return {key: _number(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shortened(name: str, longest: int) -> str:
    """Returns the name with at most so many characters; a shortened one ends in a hash of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_dir(cfg: DictConfig, overrides: Overrides | Iterable[str] = ()) -> Path:
    """The directory of a run: by its name, or the one that holds this very run under another, older name."""
    group, seed = Path(cfg.output_dir) / cfg.experiment, f"seed_{cfg.seed}"
    folder = group / run_name(cfg, overrides) / seed
    if folder.exists():
        return folder
    held = alike(cfg)
    ours = identity(cfg) if held else None
    return next((path.parent for path in held if _identity_in(path, path.stat().st_mtime_ns) == ours), folder)


def alike(cfg: DictConfig) -> list[Path]:
    """The config.json of all runs of one experiment, network, schedule and seed, whatever else they have."""
    group = Path(cfg.output_dir) / cfg.experiment
    return sorted(group.glob(f"{glob.escape(_network(cfg))}*/seed_{cfg.seed}/config.json"))


@lru_cache(maxsize=10_000)
def _identity_in(path: Path, modified: int) -> dict[str, Any] | None:
    try:
        return identity(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def finished(folder: Path, cfg: DictConfig) -> Result | None:
    """Returns the result in the folder; None, with config.json written, where the run is not finished.

    Raises:
        UserError: where the folder has a result or a checkpoint of another configuration; it names the differing keys.
    """
    for name in ("result.json", "config.json"):
        path = folder / name
        if not path.exists() or (name == "config.json" and not has_checkpoint(folder)):
            continue
        try:
            held = json.loads(path.read_text())
            theirs, ours = identity(held["config"] if name == "result.json" else held), identity(cfg)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            source = " from the checkpoint" if name == "result.json" else ""
            log.warning("%s is damaged (%s): it is made anew%s.", path, error, source)
            continue
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


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has come so far that another one may not take its place."""
    return any((folder / name).exists() for name in (LAST, BEFORE))


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
        with contextlib.suppress(OSError):  # of a full disk, say
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
