"""result.json files -> checked results, each run once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments.engine.rundir import decisive

SCHEMA = 1
# Keys of the config that tell runs of one configuration apart. The engine's config_hash includes the seed.
NOT_CONFIGURATION = ("seed",)

Row = tuple[str, str | None]  # (model, transform); the transform is None without an ST
_Number = (int, float)
_None = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,), "experiment": (str,), "dataset": (str,), "model": (str,), "transform": (str, _None),
    "trainer": (str,), "seed": (int,), "metrics": (dict,), "width": (*_Number, list, dict, _None),
    "parameters": (int,), "iterations": (int,), "wall_seconds": _Number,
    "images_per_second": (*_Number, _None), "git_revision": (str, _None), "git_dirty": (bool, _None),
    "versions": (dict,), "device": (str,), "test_fingerprint": (str,), "config_hash": (str,),
    "config": (dict,),
}  # fmt: skip


class ReportError(ValueError):
    """The results cannot be reported as they are; the message is one sentence, naming the file or folder."""


@dataclass(frozen=True)
class Result:
    """One finished run: the keys of its result.json, and the file it was read from."""

    schema: int
    experiment: str
    dataset: str
    model: str
    transform: str | None
    trainer: str
    seed: int
    metrics: dict[str, Any]
    width: Any
    parameters: int
    iterations: int
    wall_seconds: float
    images_per_second: float | None
    git_revision: str | None
    git_dirty: bool | None
    versions: dict[str, Any]
    device: str
    test_fingerprint: str
    config_hash: str
    config: dict[str, Any]
    path: Path

    @property
    def row(self) -> Row:
        return self.model, self.transform

    @property
    def settings(self) -> dict[str, str]:
        """The config that decides the result, without the seed, flattened: dotted key -> value as JSON."""
        config = decisive(self.config)
        return _flatten({key: value for key, value in config.items() if key not in NOT_CONFIGURATION})

    @property
    def configuration(self) -> str:
        """sha256 hex of the config without the seed: equal for the seeds of one cell."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def revision(self) -> str:
        return (self.git_revision or "unknown")[:7] + (" (dirty)" if self.git_dirty else "")

    @property
    def order(self) -> tuple[str | int, ...]:
        run = (self.dataset, self.experiment, self.model, self.transform or "", *trainer_order(self.trainer))
        return (*run, self.configuration, self.seed, str(self.path))

    def metric(self, name: str) -> float:
        """The metric. Raises ReportError where the run did not measure it or it is not a finite number."""
        value = self.metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, _Number) or not math.isfinite(value):
            raise ReportError(f"{self.path}: metrics.{name} is {json.dumps(value)}, not a finite number.")
        return float(value)


def load_results(dirs: Iterable[str | Path]) -> list[Result]:
    """Every result below the given folders (or the given files), checked, sorted, each run once.

    A result is a file named result.json, or any *.json under a folder named `runs`. A run found as identical
    copies (same configuration, seed, metrics and test set) counts once. Raises ReportError for a folder that
    is not there, a file that is no result, and two files that say different things about one run.
    """
    results = sorted((_read(path) for path in _result_files(dirs)), key=lambda result: result.order)
    kept: list[Result] = []
    seen: dict[tuple[Any, ...], Result] = {}
    for result in results:
        run = (result.experiment, result.dataset, result.row, result.trainer, result.seed)
        # Either hash says "the same run": the engine's (with the seed), or ours over the stored config.
        keys = [(*run, "hash", result.config_hash), (*run, "configuration", result.configuration)]
        twins = [seen[key] for key in keys if key in seen]
        for twin in twins:
            for what in ("config_hash", "metrics", "test_fingerprint"):
                if _canonical(getattr(twin, what)) != _canonical(getattr(result, what)):
                    raise ReportError(f"{twin.path} and {result.path} are the same run but differ in {what}.")
        for key in keys:
            seen.setdefault(key, result)
        if not twins:
            kept.append(result)
    return kept


def _result_files(dirs: Iterable[str | Path]) -> list[Path]:
    files: dict[Path, Path] = {}  # resolved -> as given: a file below two of the folders is read once
    for root in map(Path, dirs):
        if not root.exists():
            raise ReportError(f"{root}: there is no such file or folder.")
        full = root.resolve()
        published = "runs" in (full.name, full.parent.name)  # results/runs, or results/runs/<experiment>
        for path in [root] if root.is_file() else sorted(root.rglob("*.json")):
            inside = published or "runs" in path.relative_to(root).parts[:-1]
            if path.is_file() and (path == root or inside or path.name == "result.json"):
                files.setdefault(path.resolve(), path)
    return list(files.values())


def _read(path: Path) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not JSON
        raise ReportError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path}: not a result: its top level is not an object.")
    if "schema" in content and content["schema"] != SCHEMA:
        raise ReportError(
            f"{path}: unknown schema {json.dumps(content['schema'])}; this code reads schema {SCHEMA}."
        )
    if missing := [key for key in _TYPES if key not in content]:
        raise ReportError(f"{path}: not a result: missing {', '.join(missing)}.")
    for key, types in _TYPES.items():
        value = content[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ReportError(f"{path}: {key} is {json.dumps(value)[:60]}, which is of the wrong type.")
    if content["config"].get("seed", content["seed"]) != content["seed"]:
        raise ReportError(
            f"{path}: seed is {content['seed']}, but config.seed is {content['config']['seed']}."
        )
    return result_of(content, path)


def result_of(content: dict[str, Any], path: Path) -> Result:
    """content: of a result.json, as the engine makes it.   path: where it lies."""
    names = [field.name for field in fields(Result) if field.name != "path"]
    return Result(**{name: content[name] for name in names}, path=path)


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        parts = (_flatten(value[key], f"{prefix}.{key}" if prefix else str(key)) for key in sorted(value))
        return {key: text for part in parts for key, text in part.items()}
    return {prefix: _canonical(value)} if prefix else {}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def trainer_order(trainer: str) -> tuple[int, str]:
    return {"paper": 0, "fast": 1, "smoke": 3}.get(trainer, 2), trainer
