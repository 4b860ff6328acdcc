"""Co-localisation (appendix A.2): one transformer finds what a hundred images share, told by no label and no box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.run import load_run, snapshot_steps
from experiments.engine.task import Classification
from experiments.report import Result, Row, Section, Table
from stn import sample
from stn.datasets.colocalisation import SharedDigit
from stn.models.mnist import CNN

# Digits found, percent; Jaderberg et al. 2015 (arXiv 1506.02025), Table 5.
PAPER: dict[Row, dict[str, float]] = {
    ("T", "attention"): {str(digit): 100.0 for digit in range(10)},
    ("TC", "attention"): {
        str(digit): float(found) for digit, found in enumerate((81, 82, 88, 75, 94, 84, 93, 85, 89, 87))
    },
}
PATCHES = {"T": 0, "TC": 16}
Embedding = tuple[CNN, Result]  # a network and its result
FOUND = 0.5  # a window has found its digit with more than this intersection over union


def place(result: Result) -> tuple[Row, str] | None:
    """A row a data set, T or TC; a column a digit."""
    if result.experiment != "colocalisation":
        return None
    dataset = result.config["dataset"]
    names = {patches: name for name, patches in PATCHES.items()}
    patches = dataset["distort"]["patches"]
    return (names.get(patches, f"{patches} patches"), result.transform), str(dataset["digit"])


def overrides(row: Row, column: str) -> list[str]:
    name, transform = row
    return [
        "experiment=colocalisation",
        f"transform={transform}",
        f"dataset.digit={column}",
        f"images={name.lower()}",
    ]


PRIORITY: tuple[Row, ...] = (("T", "attention"), ("TC", "attention"))

COLOCALISATION = Table(
    name="colocalisation",
    title="Co-localisation",
    columns={str(digit): str(digit) for digit in range(10)},
    rows={("T", "attention"): "T, translated", ("TC", "attention"): "TC, and cluttered"},
    paper=PAPER,
    source="Jaderberg et al. 2015, appendix A.2, Table 5",
    place=place,
    overrides=overrides,
    row_names=("images", "transform"),
    column_name="digit",
    trainers={"paper": "fast"},  # the paper gives no schedule
    same_test_set=False,
    metric="test_localised",
    metric_label="digits found (intersection over union above 0.5), %",
    lower_is_better=False,
    decimals=0,
    paper_decimals=0,
    priority=PRIORITY,
)


def embedding(run_dir: str, *, data_dir: str | None = None) -> Embedding:
    """The CNN that describes crops, and its result.

    Args:
        run_dir: the directory of a finished run of a network `cnn` on images of the crops' size.
        data_dir: where data sets are; None: where the run had them.

    Raises:
        UserError: where the run is not finished, or its network is not a CNN.
    """
    folder = Path(run_dir)
    if not (folder / "result.json").exists():
        raise UserError(
            f"{folder} has no result.json: task.embedding.run_dir= names a finished run of model=cnn, or nothing."
        )
    _, model, _ = load_run(folder, {"data_dir": data_dir})
    if not isinstance(model, CNN):
        raise UserError(
            f"{folder} holds a {type(model).__name__}, and crops are described by a CNN: model=cnn."
        )
    return model, Result.read(folder / "result.json")


class Colocalisation(nn.Module):
    """The triplet hinge of appendix A.2 on a frozen network's description e() of crops.

        mean over pairs n != m of max(0, |e(I_n^T) - e(I_m^T)|^2 - |e(I_n^T) - e(I_n^rand)|^2 + margin)

    Each of the CNN's three layers of activations is brought to unit length before they are put end to end, so that
    none outweighs the others and squared distances lie between 0 and 6 or so.

    embedding: describes crops.
    held_share: of the training, during which the windows' size is held and only the place is learnt; the random crops'
        side is then `crop`, a share of the image's. It is `crop_ratio` times the window's own from then on, at most the
        image's, and learnt from as well: a window so large that any other of its size holds the same is a bad one.
    raises: UserError for shares outside 0 to 1, and crops of no size.
    """

    separable = False  # pairs of images are compared: no part of a batch stands for itself

    def __init__(
        self,
        embedding: Embedding,
        *,
        margin: float = 4.0,
        held_share: float = 0.25,
        crop: float = 1 / 3,
        crop_ratio: float = 1.25,
    ) -> None:
        super().__init__()
        if not 0 <= held_share <= 1:
            raise UserError(
                f"task.held_share={held_share} is not valid: it is a share of the training, 0 to 1."
            )
        if not (0 < crop <= 1 and crop_ratio > 0):
            raise UserError(
                f"task.crop={crop} and task.crop_ratio={crop_ratio} are not valid: the first is a share of the image's "
                "side, above 0 to 1, the second of the window's, above 0."
            )
        network, result = embedding
        self.network = network.eval().requires_grad_(False)
        self.margin, self.held_share, self.crop, self.crop_ratio = margin, held_share, crop, crop_ratio
        self.metrics = {"embedding_error": result.metric("test_error")}

    def at(self, model: nn.Module, share: float) -> None:
        """Told how much of the training is done. Not in `loss`: a recorded CUDA graph would repeat it as it was."""
        model.head.hold_size(share < self.held_share)

    def describe(self, crops: Tensor) -> Tensor:
        """e(): (B, 1, h, w) -> (B, features), three vectors of unit length end to end."""
        layers = self.network.activations(crops)
        return torch.cat([F.normalize(layer.flatten(1).float(), dim=1) for layer in layers], 1)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """batch: images (B, 1, S, S) and the random crops' places (B, 2), as of `CropStream`.
        returns: as `Classification.loss`; of the sums, `violations` counts the pairs that are not apart by the margin,
        as a share of each image's.
        """
        images, places = batch
        _, aux = model(images)
        crops = aux["warped"][:, 0]
        free = model.head.size_free
        own = (self.crop_ratio * aux["theta"][:, 0, :1]).clamp(max=1.0)
        side = free * own + (1 - free) * self.crop
        grid = model.transformers.transform.grid(
            torch.cat([side, (1 - side) * places], 1), tuple(crops.shape[2:])
        )
        random = self.describe(sample(images, grid))
        hinge = triplet_hinge(self.describe(crops), random, self.margin)
        pairs = max(len(images) * (len(images) - 1), 1)
        loss = hinge.sum() / pairs
        count = torch.full((), len(images), device=images.device)
        violations = (hinge.detach() > 0).sum() / pairs * count
        return loss, {"loss": loss.detach() * count, "violations": violations, "images": count}, aux

    watch = Classification.watch

    @torch.inference_mode()
    def evaluate(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[dict[str, float], Tensor]:
        """returns: `localised` in percent, mean `iou`, how many `images`, the embedding's own test error; and the
        windows (N, 4), left, top, right, bottom in pixels.
        """
        model.eval()
        windows, overlaps = [], []
        for images, truth in batches:
            predicted, _ = model(images)
            windows.append(predicted.float().cpu())
            overlaps.append(iou(predicted.float(), truth).cpu())
        model.train()
        overlap = torch.cat(overlaps)
        metrics = {
            "localised": 100 * int((overlap > FOUND).sum()) / len(overlap),
            "iou": overlap.double().mean().item(),
            "images": float(len(overlap)),
        }
        return metrics | self.metrics, torch.cat(windows)


def triplet_hinge(mine: Tensor, random: Tensor, margin: float) -> Tensor:
    """max(0, |mine_n - mine_m|^2 - |mine_n - random_n|^2 + margin), and 0 for n = m.

    mine, random: (B, features).   returns: (B, B), row n, column m.
    """
    length = mine.square().sum(1)
    same = (length[:, None] + length - 2 * mine @ mine.T).clamp(min=0)
    other = (mine - random).square().sum(1)
    hinge = F.relu(same - other[:, None] + margin)
    return hinge - torch.diag_embed(hinge.diagonal())


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes, the first with the first and so on.

    a, b: (N, 4), left, top, right, bottom.   returns: (N,).
    """
    least, most = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (most - least).clamp(min=0).prod(1)
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    return common / both.clamp(min=1e-12)


EXAMPLES = 8


def figures(model: nn.Module, data: SharedDigit, folder: Path) -> dict[str, Path]:
    """`windows`, the predicted windows over the steps as a strip, and `windows_animation`; written into `folder`.

    Needs the weights that trainer.snapshot_every keeps; without, the strip is of the last step alone.
    returns: name -> path.
    """
    from experiments.sections.figures import (  # matplotlib: slow to import
        windows_animation,
        windows_over_steps,
    )

    what = f"{folder.parent.parent.name}, {folder.parent.name}, {folder.name}"
    images, truth = data.test.images[:EXAMPLES].float() / 255, data.test.labels[:EXAMPLES].cpu()
    last = model.state_dict()
    last = {key: value.clone() for key, value in last.items()}
    model.eval()
    steps = snapshot_steps(folder)
    windows: dict[int | str, Tensor] = {}
    with torch.inference_mode():
        for step, path in steps.items():
            model.load_state_dict(checkpoint.load(path, images.device))
            windows[step] = model(images)[0].float().cpu()
        model.load_state_dict(last)
        if not windows:
            windows["last"] = model(images)[0].float().cpu()
    shown = images.cpu()
    some = thin(list(windows), ROWS)
    paths = {
        "windows": windows_over_steps(
            shown, truth, {step: windows[step] for step in some}, folder / "windows.png", title=what
        )
    }
    if len(windows) > 1:
        title = f"digit {data.digit}"
        paths["windows_animation"] = windows_animation(
            shown, truth, windows, folder / "windows.gif", title=title
        )
    return paths


ROWS = 7  # of the strip


def thin(steps: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)]


SECTION = Section(name="colocalisation", tables=(COLOCALISATION,), figures=figures)
