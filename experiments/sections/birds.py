"""Birds (paper section 4.3): the table, the task, which measures what part of a bird each window is on, the picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.engine.smoothing import SmoothedClassification
from experiments.report import Claim, Level, Result, Row, Runs, Section, Table, gain_in
from experiments.report.subject import Score, Subject, Words
from stn import Transform
from stn.datasets.bird_lists import BODY, HEAD, PARTS

EXPERIMENTS = {
    "cub_cnn_224": "CNN, 224 px",
    "cub_2st_224": "2xST-CNN, 224 px",
    "cub_2st_448": "2xST-CNN, 448 px",
    "cub_4st_448": "4xST-CNN, 448 px",
}
# The same networks with windows that stay where they start: what so many passes of a backbone gain without theta.
CONTROLS = {
    "cub_2fixed_448": "2 fixed windows, 448 px",
    "cub_4fixed_448": "4 fixed windows, 448 px",
}
ROWS: dict[Row, str] = {(experiment, None): label for experiment, label in (EXPERIMENTS | CONTROLS).items()}
# Accuracy in percent on all 200 classes; Jaderberg et al. 2015 (arXiv 1506.02025), Table 3.
PAPER: dict[Row, dict[str, float]] = {
    (experiment, None): {"accuracy": accuracy}
    for experiment, accuracy in zip(EXPERIMENTS, (82.3, 83.1, 83.9, 84.1), strict=True)
}


def place(result: Result) -> tuple[Row, str] | None:
    """A row an experiment, and the one column."""
    row = (result.experiment, None)
    return (row, "accuracy") if row in ROWS else None


def overrides(row: Row, column: str) -> list[str]:
    """The inverse of `place`."""
    return [f"experiment={row[0]}"]


BIRDS = Table(
    name="birds",
    title="Birds",
    columns={"accuracy": "accuracy"},
    rows=ROWS,
    paper=PAPER,
    source="Jaderberg et al. 2015, Table 3",
    place=place,
    overrides=overrides,
    row_names=("experiment", "variant"),
    column_name="measure",
    trainers={"paper": "paper_birds"},
    same_test_set=False,  # 224 and 448 pixels of the same images
    metric="test_accuracy",
    metric_label="accuracy, %",
    lower_is_better=False,
    dataset="cub",
    decimals=1,
)

REGIONS = {"head": HEAD, "body": BODY}  # region of a bird -> names of its parts
RANDOM = 16  # random windows an image, the level of chance


def specialised(experiment: str) -> Runs:
    """How far one window is on the head and another on the body: `head_and_body`."""
    return Runs(
        name=f"{EXPERIMENTS[experiment]}: head and body apart, points",
        value=lambda result: head_and_body(result.metrics) if result.experiment == experiment else None,
        lower_is_better=False,
        dataset=BIRDS.dataset,
        decimals=1,
    )


def head_and_body(metrics: Mapping[str, float]) -> float | None:
    """The most by which one window beats chance at the head while another beats it at the body.

    A window leads at a region by its share of hits minus the largest of its own share before training, that of random
    windows, and that of the other window. So two windows on one region have no lead at the other. A pair counts as the
    lesser of its two leads.

    Args:
        metrics: with `test_st{k}_head` and so on, as `BirdClassification` measures them.

    Returns:
        Percentage points, of the best pair; None with fewer than two windows.
    """
    windows = [k for k in range(len(metrics)) if f"test_st{k}_head" in metrics]

    def lead(k: int, other: int, region: str) -> float:
        """By how much window k hits the region more often than what learnt nothing, and than another window."""
        others = ("start", k), ("random", ""), ("st", other)
        return metrics[f"test_st{k}_{region}"] - max(
            metrics[f"test_{name}{j}_{region}"] for name, j in others
        )

    pairs = itertools.permutations(windows, 2)
    return max((min(lead(a, b, "head"), lead(b, a, "body")) for a, b in pairs), default=None)


CLAIM = Claim(
    7,
    "A bird classifier is better with transformers at the same resolution; one goes to the head, another to the body.",
    "section 4.3, Table 3",
    (
        gain_in(BIRDS, ("cub_2st_224", None), ("cub_cnn_224", None), "accuracy"),
        *(Level(specialised(experiment), 0.0) for experiment in EXPERIMENTS if experiment != "cub_cnn_224"),
    ),
    "A window hits the head where the middle of the head lies in it, and the body likewise. Head and body are found if "
    "one window hits the head more often than it did before training, than random windows do, and than a second window "
    "does, and if this second window hits the body more often than each of the three likewise. The number is the least "
    "of these six differences, of the pair of windows where it is greatest. So a small number is a small difference of "
    "two windows. The gain at 448 pixels is no part: the CNN of the paper sees 224.",
)


def region_centres(parts: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The mean place of the visible parts of a region.

    Args:
        parts: (B, 15, 3): x and y in [-1, 1], and 1 where the part is visible, else 0.
        names: of the region's parts.

    Returns:
        (B, 2), and whether any part is visible, (B,), bool.
    """
    chosen = parts[:, [PARTS.index(name) for name in names]]
    visible = chosen[..., 2:]
    count = visible.sum(1)
    return (chosen[..., :2] * visible).sum(1) / count.clamp(min=1), count[:, 0] > 0


def corners(transform: Transform, theta: Tensor) -> Tensor:
    """The corners of windows in the image, going round, for theta (B, num_params): (B, 4, 2), (x, y) in [-1, 1]."""
    frame = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], device=theta.device)
    return transform.map_points(theta.float(), frame)


def inside(polygon: Tensor, points: Tensor) -> Tensor:
    """Whether points lie in convex polygons.

    Args:
        polygon: (B, K, 2), the corners, going round either way.
        points: (B, 2), one a polygon.

    Returns:
        (B,), bool.
    """
    edges = polygon.roll(-1, 1) - polygon
    to = points[:, None] - polygon
    side = edges[..., 0] * to[..., 1] - edges[..., 1] * to[..., 0]
    return (side >= 0).all(1) | (side <= 0).all(1)


class BirdClassification(SmoothedClassification):
    """Classification of birds; `evaluate` also measures which part of a bird each transformer attends to.

    It returns `accuracy` beside `error`. Of transformer k, `st{k}_head` is the percentage of images in which the middle
    of the bird's head lies in the window, of those in which the head is visible; `start{k}_head` is the same of the
    window before training, `random_head` of windows of that size anywhere in the image. `..._body` is the same of the
    body.
    """

    @torch.inference_mode()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, ...]]
    ) -> tuple[dict[str, float], Tensor]:
        """As `Classification.evaluate`, of images, labels and parts (B, 15, 3), with the metrics of this class."""
        seen_parts: list[Tensor] = []
        windows: list[Tensor] = []

        def plain() -> Iterable[tuple[Tensor, Tensor]]:
            for images, labels, parts in batches:
                seen_parts.append(parts)
                yield images, labels

        def keep(module: nn.Module, inputs: object, output: tuple[Tensor, dict[str, Tensor]]) -> None:
            if "theta" in output[1]:
                windows.append(output[1]["theta"].float())

        hook = model.register_forward_hook(keep)
        try:
            metrics, predictions = super().evaluate(model, plain())
        finally:
            hook.remove()
        metrics = {"accuracy": 100 - metrics["error"], **metrics}
        if windows:
            metrics |= region_hits(model, torch.cat(windows), torch.cat(seen_parts))
        return metrics, predictions


def region_hits(model: Any, theta: Tensor, parts: Tensor) -> dict[str, float]:
    """How often the middle of a region lies in a window.

    Args:
        model: a network with parallel transformers of one transform.
        theta: (N, K, num_params), of all images.
        parts: (N, 15, 3), as of `region_centres`.

    Returns:
        `st{k}_{region}`, `start{k}_{region}` and `random_{region}` of `BirdClassification`, in percent.
    """
    from stn.models.images import tiling  # torchvision: slow to import

    transform, count = model.transformers.transform, theta.shape[1]
    starts = tiling(transform, count).to(theta.device)
    generator = torch.Generator().manual_seed(0)
    hits = {}
    for region, names in REGIONS.items():
        centre, visible = region_centres(parts, names)

        def share(polygons: Tensor, centre: Tensor = centre[visible], visible: Tensor = visible) -> float:
            return 100 * inside(polygons[visible], centre).double().mean().item()

        for k in range(count):
            start = corners(transform, starts[k : k + 1])
            hits[f"st{k}_{region}"] = share(corners(transform, theta[:, k]))
            hits[f"start{k}_{region}"] = share(start.expand(len(theta), -1, -1))
        half = (start.amax(1) - start.amin(1)) / 2  # (1, 2): every window begins with the same size
        shape = start - start.mean(1, keepdim=True)
        draws = 2 * torch.rand(RANDOM, len(theta), 2, generator=generator) - 1
        anywhere = [share(shape + ((1 - half) * draw.to(theta.device))[:, None]) for draw in draws]
        hits[f"random_{region}"] = sum(anywhere) / RANDOM
    return hits


def draw(model: nn.Module, data: Any, folder: Path, subject: Subject) -> dict[str, Path]:
    """`crops`: test images with the window of each transformer, and its crop beside."""
    from experiments.sections.figures import example_crops  # matplotlib: slow to import

    return example_crops(model, data, folder, subject)


DATA = {
    "cub": "photographs of 200 species of birds",
    "cub50": "photographs of 50 species of birds",
    "toy_birds": "drawn birds",
}
WORDS = Words(DATA, EXPERIMENTS | CONTROLS, Score("test_accuracy", "test accuracy {:.1f}\N{NO-BREAK SPACE}%"))
SECTION = Section(name="birds", tables=(BIRDS,), draw=draw, claims=(CLAIM,), words=WORDS)
