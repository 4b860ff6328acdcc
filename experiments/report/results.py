"""Result files -> checked results, each run once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.result import Result, canonical

Row = tuple[str, str | None]  # (model, transform); the transform is None without an ST


def row_of(result: Result) -> Row:
    """The row of a table whose rows are networks."""
    return result.model, result.transform


def sort_key(result: Result) -> tuple[str | int, ...]:
    """The order of results: by what was run, then by where the file is."""
    run = (result.dataset, result.experiment, result.model, result.transform or "")
    schedule = trainer_order(result.trainer)
    return (*run, *schedule, result.configuration, result.seed, str(result.path))


def load_results(dirs: Iterable[str | Path]) -> list[Result]:
    """Every result below some folders, checked, sorted, each run once.

    A result is a file named result.json, as a run directory has it, or a published one: runs/<experiment>/<run>.json.
    Other JSON files, such as a run directory's config.json, are left alone, wherever they are. Of identical copies of a
    run (same configuration, seed, metrics and test set) one counts.

    Args:
        dirs: folders, or result files.

    Raises:
        UserError: for a folder that does not exist, a result that is not valid, and two files that say different things
            about one run.
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
    """The files of results below some folders, sorted; a file below two of the folders is there once."""
    files: dict[Path, Path] = {}  # resolved -> as given
    for root in map(Path, dirs):
        if not root.exists():
            raise UserError(f"{root}: there is no such file or folder.")
        for path in [root] if root.is_file() else sorted(root.rglob("*.json")):
            if path == root or path.name == "result.json" or _is_published(path, root):
                files.setdefault(path.resolve(), path)
    return list(files.values())


def _is_published(path: Path, root: Path) -> bool:
    """Whether a file is in the place of a published result, and nothing else that lies there.

    The place is runs/ or runs/<experiment>/; a folder given as `root` may be either. The files of run directories are
    deeper, so a folder of outputs may be called runs too. JSON without a `schema` is something else; a broken file is
    taken for a broken result, which reading it reports.
    """
    full = root.resolve()
    folders = (full.parent.name, full.name, *path.relative_to(root).parts[:-1])
    if "runs" not in folders[-2:] or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return isinstance(content, dict) and "schema" in content


def trainer_order(trainer: str) -> tuple[int, str]:
    """The order of schedules: paper, fast, others by name, smoke."""
    return {"paper": 0, "fast": 1, "smoke": 3}.get(trainer, 2), trainer
