"""result.json files -> checked results, each run once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.result import Result, canonical

Row = tuple[str, str | None]  # (model, transform); the transform is None without an ST


def row_of(result: Result) -> Row:
    """The row of a table whose rows are networks."""
    return result.model, result.transform


def sort_key(result: Result) -> tuple[str | int, ...]:
    """The key by which results are sorted: a function of what was run, then of where it lies."""
    run = (result.dataset, result.experiment, result.model, result.transform or "")
    schedule = trainer_order(result.trainer)
    return (*run, *schedule, result.configuration, result.seed, str(result.path))


def load_results(dirs: Iterable[str | Path]) -> list[Result]:
    """Every result below the given folders (or the given files), checked, sorted, each run once.

    A result is a file named result.json, or any *.json under a folder named `runs`. A run found as identical
    copies (same configuration, seed, metrics and test set) counts once. Raises UserError for a folder that
    is not there, a file that is no result, and two files that say different things about one run.
    """
    results = sorted((Result.read(path) for path in _result_files(dirs)), key=sort_key)
    kept: list[Result] = []
    seen: dict[tuple[str | int | None, ...], Result] = {}
    for result in results:
        run = (result.experiment, result.dataset, *row_of(result), result.trainer)
        key = (*run, result.configuration, result.seed)
        twin = seen.setdefault(key, result)
        if twin is result:
            kept.append(result)
        for what in ("metrics", "test_fingerprint"):
            if canonical(getattr(twin, what)) != canonical(getattr(result, what)):
                raise UserError(f"{twin.path} and {result.path} are the same run but differ in {what}.")
    return kept


def _result_files(dirs: Iterable[str | Path]) -> list[Path]:
    files: dict[Path, Path] = {}  # resolved -> as given: a file below two of the folders is read once
    for root in map(Path, dirs):
        if not root.exists():
            raise UserError(f"{root}: there is no such file or folder.")
        full = root.resolve()
        published = "runs" in (full.name, full.parent.name)  # results/runs, or results/runs/<experiment>
        for path in [root] if root.is_file() else sorted(root.rglob("*.json")):
            inside = published or "runs" in path.relative_to(root).parts[:-1]
            if path.is_file() and (path == root or inside or path.name == "result.json"):
                files.setdefault(path.resolve(), path)
    return list(files.values())


def trainer_order(trainer: str) -> tuple[int, str]:
    return {"paper": 0, "fast": 1, "smoke": 3}.get(trainer, 2), trainer
