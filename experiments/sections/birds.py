"""Birds (section 4.3): the table, and which part of a bird each transformer finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from experiments.engine.smoothing import SmoothedClassification
from experiments.report import Result, Row, Section, Table
from experiments.sections.figures import some_photographs
from stn import Transform
from stn.datasets.bird_lists import BODY, HEAD, PARTS

EXPERIMENTS = {
    "cub_cnn_224": "CNN, 224 px",
    "cub_2st_224": "2xST-CNN, 224 px",
    "cub_2st_448": "2xST-CNN, 448 px",
    "cub_4st_448": "4xST-CNN, 448 px",
}
ROWS: dict[Row, str] = {(experiment, None): label for experiment, label in EXPERIMENTS.items()}
# Accuracy in percent on all 200 classes; Jaderberg et al. 2015 (arXiv 1506.02025), Table 3.
PAPER: dict[Row, dict[str, float]] = {
    (experiment, None): {"accuracy": accuracy}
    for experiment, accuracy in zip(EXPERIMENTS, (82.3, 83.1, 83.9, 84.1), strict=True)
}


def place(result: Result) -> tuple[Row, str] | None:
    """A row an experiment."""
    return ((result.experiment, None), "accuracy") if result.experiment in EXPERIMENTS else None


def overrides(row: Row, column: str) -> list[str]:
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
    same_test_set=False,  # 224 and 448 pixels of the same photographs
    metric="test_accuracy",
    metric_label="accuracy, %",
    lower_is_better=False,
    dataset="cub",
    decimals=1,
)


REGIONS = {"head": HEAD, "body": BODY}
RANDOM = 16  # random windows an image


def region_centres(parts: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The mean place of the visible parts of a region.

    parts: (B, 15, 3), x, y, and 1 where visible.   names: of the region's parts.
    returns: (B, 2), and (B,) whether any is visible.
    """
    chosen = parts[:, [PARTS.index(name) for name in names]]
    visible = chosen[..., 2:]
    count = visible.sum(1)
    return (chosen[..., :2] * visible).sum(1) / count.clamp(min=1), count[:, 0] > 0


def corners(transform: Transform, theta: Tensor) -> Tensor:
    """A window's corners in the image, going round.   theta: (B, num_params).   returns: (B, 4, 2)."""
    frame = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], device=theta.device)
    return transform.map_points(theta.float(), frame)


def inside(polygon: Tensor, points: Tensor) -> Tensor:
    """Whether points lie in convex polygons, whichever way these go round.

    polygon: (B, K, 2).   points: (B, 2).   returns: (B,), bool.
    """
    edges = polygon.roll(-1, 1) - polygon
    to = points[:, None] - polygon
    side = edges[..., 0] * to[..., 1] - edges[..., 1] * to[..., 0]
    return (side >= 0).all(1) | (side <= 0).all(1)


class Birdwatching(SmoothedClassification):
    """Classification of birds, and which part of a bird each transformer finds.

    evaluate returns `accuracy` beside `error`; and for transformer k, in how many percent of the birds that show any of
    it the middle of the head (or body) lies in its window: `st{k}_head`, `st{k}_body`; beside it the same of where the
    windows began, `start{k}_head`, and of windows of the same size anywhere in the image, `random_head`.
    """

    @torch.inference_mode()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, ...]]
    ) -> tuple[dict[str, float], Tensor]:
        told: list[Tensor] = []
        windows: list[Tensor] = []

        def plain() -> Iterable[tuple[Tensor, Tensor]]:
            for images, labels, parts in batches:
                told.append(parts)
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
            metrics |= found(model, torch.cat(windows), torch.cat(told))
        return metrics, predictions


def found(model: nn.Module, theta: Tensor, parts: Tensor) -> dict[str, float]:
    """theta: (N, K, num_params).   parts: (N, 15, 3).   returns: as `Birdwatching.evaluate` says, in percent."""
    from stn.models.images import tiling  # torchvision: slow to import

    transform, count = model.transformers.transform, theta.shape[1]
    starts = tiling(transform, count).to(theta.device)
    generator = torch.Generator().manual_seed(0)
    numbers = {}
    for region, names in REGIONS.items():
        centre, visible = region_centres(parts, names)

        def share(polygons: Tensor, centre: Tensor = centre[visible], visible: Tensor = visible) -> float:
            return 100 * inside(polygons[visible], centre).double().mean().item()

        for k in range(count):
            start = corners(transform, starts[k : k + 1])
            numbers[f"st{k}_{region}"] = share(corners(transform, theta[:, k]))
            numbers[f"start{k}_{region}"] = share(start.expand(len(theta), -1, -1))
        half = (start.amax(1) - start.amin(1)) / 2  # (1, 2): every window begins with the same size
        shape = start - start.mean(1, keepdim=True)
        draws = 2 * torch.rand(RANDOM, len(theta), 2, generator=generator) - 1
        anywhere = [share(shape + ((1 - half) * draw.to(theta.device))[:, None]) for draw in draws]
        numbers[f"random_{region}"] = sum(anywhere) / RANDOM
    return numbers


SECTION = Section(name="birds", tables=(BIRDS,), figures=some_photographs)
