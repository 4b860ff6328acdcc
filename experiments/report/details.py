"""What runs are compared by beside their metrics: the test predictions and the learning curves.

A run directory holds them as predictions.pt and metrics.jsonl; of a published run, which is
results/runs/<experiment>/<run>.json, they are in results/details/<experiment>/<run>.npz, some kilobytes.
"""

import json
from pathlib import Path

import numpy as np
import torch

from experiments.engine.checkpoint import write_atomically

POINTS = 200  # of a published curve, at most
Curve = dict[int, float]  # step -> value


def details_path(published: Path) -> Path:
    """Where the details of a published run are.   published: its JSON file."""
    return published.parents[2] / "details" / published.parent.name / f"{published.stem}.npz"


def keep(folder: Path, published: Path) -> Path:
    """Copies the details of a run directory to where a published run's are. returns: the file."""
    arrays = {}
    for name, curve in curves(folder / "result.json").items():
        points = np.array([list(curve), list(curve.values())], dtype=np.float32)
        every = -(-points.shape[1] // POINTS)
        arrays[name] = points[:, ::-every][:, ::-1]  # the last point is one of them
    predicted = predictions(folder / "result.json")
    if predicted is not None:
        arrays["predictions"] = predicted
    path = details_path(published)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(path, write)
    return path


def predictions(result: Path) -> np.ndarray | None:
    """What a run predicted on its test set, one row an image. None where it is not kept.   result: its JSON file."""
    if result.name == "result.json":
        path = result.parent / "predictions.pt"
        return torch.load(path, weights_only=True).numpy() if path.exists() else None
    return _published(result).get("predictions")


def curves(result: Path) -> dict[str, Curve]:
    """Name, such as train/error, -> what was logged. Empty where it is not kept.   result: the run's JSON file."""
    found: dict[str, Curve] = {}
    if result.name == "result.json":
        path = result.parent / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            numbers = json.loads(line)
            for name in numbers:
                if name.startswith(("train/", "val/")):
                    found.setdefault(name, {})[numbers["step"]] = numbers[name]
        return found
    for name, points in _published(result).items():
        if name != "predictions":
            found[name] = dict(zip(points[0].astype(int).tolist(), points[1].tolist(), strict=True))
    return found


def _published(result: Path) -> dict[str, np.ndarray]:
    path = details_path(result)
    if not path.exists():
        return {}
    with np.load(path) as held:
        return {name: held[name] for name in held.files}
