"""The details of a run, which comparisons need beside its metrics: predictions, learning curves, a task's own.

A run directory has them in predictions.pt, metrics.jsonl and details.pt. A published run,
results/runs/<experiment>/<run>.json, has them in results/details/<experiment>/<run>.npz, some kilobytes, and there also
which test images it has right.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.build import UserError
from experiments.engine.files import write_atomically
from experiments.engine.history import read_history
from stn.files import load_tensors

POINTS = 200  # at most so many of a published curve
SMOOTH = 40  # drawn curves of training batches are running means over 1 / SMOOTH of the logged steps
LOGGED = ("train/", "val/")  # what the names of curves begin with
DRAWN = {"loss": "loss, no unit", "error": "error, %"}  # ending of a logged name -> label of its axis
OF = {"train": "training batches, running mean", "val": "held-out images"}  # beginning -> what it is of
Curve = dict[int, float]  # step -> value


def details_path(published: Path) -> Path:
    """The file with the details of a published run, whose result is the file `published`."""
    return _beside(published, "details") / f"{published.stem}.npz"


def figures_folder(published: Path) -> Path:
    """The folder with the figures of a published run, whose names begin with that of its result file."""
    return _beside(published, "figures")


def _beside(published: Path, what: str) -> Path:
    """results/<what>/<experiment> for results/runs/<experiment>/<run>.json, which may be given from inside results."""
    experiment = published.absolute().parent
    return experiment.parents[1] / what / experiment.name


def keep(folder: Path, published: Path) -> Path:
    """Copies the details of a run directory to those of a published run.

    Args:
        folder: the run directory.
        published: the result file of the published run.

    Returns:
        The file with the details.
    """
    arrays: dict[str, Any] = {}
    for name, curve in curves(folder / "result.json").items():
        points = np.array([list(curve), list(curve.values())], dtype=np.float32)
        every = -(-points.shape[1] // POINTS)
        arrays[name] = points[:, ::-every][:, ::-1]  # the last point is one of them
    predicted = predictions(folder / "result.json")
    if predicted is not None:
        arrays["predictions"] = predicted
    arrays |= measured(folder / "result.json")
    return _write(published, arrays)


def keep_right(published: Path, right: np.ndarray) -> Path:
    """Adds to the details of a published run which test images it has right, (N,), bool.

    Comparisons need no data then.
    """
    return _write(published, {**_published(published), "right": right})


def right(result: Path) -> np.ndarray | None:
    """Which test images a published run has right, (N,), bool; None where it is not stored.

    Args:
        result: the run's result file; a run directory has predictions alone.
    """
    return None if result.name == "result.json" else _published(result).get("right")


def _write(published: Path, arrays: dict[str, Any]) -> Path:
    path = details_path(published)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(path, write)
    return path


def predictions(result: Path) -> np.ndarray | None:
    """What a run predicted on its test set, one row an image; None where it is not stored.

    Args:
        result: the run's result file, published or in its run directory.

    Raises:
        UserError: where the file holds something else.
    """
    if result.name == "result.json":
        path = result.parent / "predictions.pt"
        try:
            return load_tensors(path).numpy() if path.exists() else None
        except (AttributeError, ValueError) as error:  # AttributeError: no tensor
            raise UserError(f"No predictions: {error} Delete {path} to compare without it.") from None
    return _published(result).get("predictions")


def measured(result: Path) -> dict[str, np.ndarray]:
    """What else the task of a run kept of its test set (`Task.details`); empty where it keeps nothing.

    Args:
        result: the run's result file, published or in its run directory.

    Raises:
        UserError: where the file is damaged or holds something else.
    """
    if result.name == "result.json":
        path = result.parent / "details.pt"
        try:
            held = load_tensors(path) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"No details: {error} Delete {path} to go on without it.") from None
        return {name: tensor.numpy() for name, tensor in held.items()}
    return {
        name: array
        for name, array in _published(result).items()
        if name not in ("predictions", "right") and not name.startswith(LOGGED)
    }


def curves(result: Path) -> dict[str, Curve]:
    """What a run logged while it trained.

    Args:
        result: the run's result file, published or in its run directory.

    Returns:
        Name, such as train/error, -> curve; empty where no log is stored.
    """
    logged: dict[str, Curve] = {}
    if result.name == "result.json":
        for step, entry in read_history(result.parent / "metrics.jsonl"):
            for name in entry:
                if name.startswith(LOGGED):
                    logged.setdefault(name, {})[step] = entry[name]
        return logged
    for name, points in _published(result).items():
        if name.startswith(LOGGED):
            logged[name] = dict(zip(points[0].astype(int).tolist(), points[1].tolist(), strict=True))
    return logged


def drawn(log: Mapping[str, Curve], ending: str) -> dict[str, Curve]:
    """The curves of a log as they are drawn: those of training batches as running means.

    Args:
        log: as of `curves`.
        ending: of the names, of `DRAWN`.

    Returns:
        What it is of, in words, -> curve; without those that are not logged.
    """
    found = {}
    for beginning, words in OF.items():
        curve = log.get(f"{beginning}/{ending}", {})
        values = list(curve.values())
        shown = running_mean(values) if beginning == "train" else values
        if shown:
            found[words] = dict(zip(curve, shown, strict=True))
    return found


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, one in `SMOOTH` of all values together."""
    width = -(-len(values) // SMOOTH)
    return [statistics.fmean(values[max(i + 1 - width, 0) : i + 1]) for i in range(len(values))]


def _published(result: Path) -> dict[str, np.ndarray]:
    path = details_path(result)
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (
        Exception
    ):  # numpy raises half a dozen kinds; its message explains how to run whatever is in the file
        reason = "it is damaged, or holds something besides numbers"
        raise UserError(f"{path} cannot be read ({reason}): restore or delete it.") from None
