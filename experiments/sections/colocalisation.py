"""Co-localisation (paper appendix A.2): without labels or boxes, a transformer finds what a hundred images share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.interfaces import Aux, Batch, Sums, Task
from experiments.engine.run import load_run
from experiments.engine.task import Classification
from experiments.report import Claim, Level, Result, Row, Section, Table, runs_in
from experiments.report.subject import Score, Subject, Words
from stn import sample
from stn.datasets.colocalisation import SharedDigit
from stn.models.mnist import CNN

# Digits found, percent; Jaderberg et al. 2015 (arXiv 1506.02025), Table 5.
PAPER: dict[Row, dict[str, float]] = {
    ("T", "attention"): {str(digit): 100.0 for digit in range(10)},
    ("TC", "attention"): {
        str(digit): float(share) for digit, share in enumerate((81, 82, 88, 75, 94, 84, 93, 85, 89, 87))
    },
}
Embedding = tuple[CNN, Result]  # a network and its result
PRIORITY: tuple[Row, ...] = (("T", "attention"), ("TC", "attention"))
PATCHES = {"T": 0, "TC": 16}  # data set of the paper -> patches of clutter in an image
MIN_IOU = 0.5  # a digit counts as found where the intersection over union of the boxes is above this
EXAMPLES = 8  # images in the pictures
STRIP = 7  # at most so many steps in the strip


def place(result: Result) -> tuple[Row, str] | None:
    """A row a data set, T or TC; a column a digit."""
    if result.experiment != "colocalisation":
        return None
    dataset = result.config["dataset"]
    names = {patches: name for name, patches in PATCHES.items()}
    patches = dataset["distort"]["patches"]
    return (names.get(patches, f"{patches} patches"), result.transform), str(dataset["digit"])


def overrides(row: Row, column: str) -> list[str]:
    """The inverse of `place`."""
    name, transform = row
    return [
        "experiment=colocalisation",
        f"transform={transform}",
        f"dataset.digit={column}",
        f"images={name.lower()}",
    ]


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

LEAST = min(share for row in PAPER.values() for share in row.values())
CLAIM = Claim(
    9,
    "Without labels or boxes, a transformer finds what a hundred images have in common.",
    "appendix A.2, Table 5",
    tuple(
        Level(runs_in(COLOCALISATION, row, column), LEAST)
        for row in COLOCALISATION.rows
        for column in COLOCALISATION.columns
    ),
    f"Found means: in more than {LEAST:.0f} % of the images, the least that the paper reports of any digit.",
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


class Colocalisation(Task):
    """The triplet hinge of appendix A.2 on the features e() of crops, from a frozen network.

        mean over pairs n != m of max(0, |e(I_n^T) - e(I_m^T)|^2 - |e(I_n^T) - e(I_n^rand)|^2 + margin)

    The CNN's three layers of activations are scaled to unit length and concatenated, so that none outweighs the others
    and squared distances lie between 0 and 6 or so.

    Args:
        embedding: the frozen network, and its result.
        margin: of the hinge.
        held_share: share of the training in which the windows' size is held and only their place is learnt.
        crop: side of the random crops while the size is held, as a share of the image's side.
        crop_ratio: side of the random crops from then on, as a multiple of the window's own, at most the image's side.
            The size gets a gradient from them as well: of a window so large that any other holds the same, the hinge is
            high.

    Raises:
        UserError: for shares outside 0 to 1, and crops without a size.
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

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def at(self, model: Any, share: float) -> None:
        """Holds or frees the windows' size, given the share of the training that is done.

        It is not part of `loss`, since a recorded CUDA graph would repeat the state in which it was recorded.
        """
        model.head.hold_size(share < self.held_share)

    def describe(self, crops: Tensor) -> Tensor:
        """e(): crops (B, 1, h, w) -> (B, features), three concatenated vectors of unit length."""
        layers = self.network.activations(crops)
        return torch.cat([F.normalize(layer.flatten(1).float(), dim=1) for layer in layers], 1)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        """The loss of a batch.

        Args:
            model: the localiser.
            batch: images (B, 1, S, S) and the places of the random crops (B, 2), as `CropStream` draws them.

        Returns:
            As `Classification.loss`; of the sums, `violations` is the share of pairs that are not apart by the margin,
            times the number of images.
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
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        """The metrics on a set of images and true boxes.

        Returns:
            `localised`, the percentage of digits found; the mean `iou`; the number of `images`; `embedding_error`, the
            test error of the embedding. And the windows (N, 4): left, top, right, bottom in pixels.
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
            "localised": 100 * int((overlap > MIN_IOU).sum()) / len(overlap),
            "iou": overlap.double().mean().item(),
            "images": float(len(overlap)),
        }
        return metrics | self.metrics, torch.cat(windows)


def triplet_hinge(mine: Tensor, random: Tensor, margin: float) -> Tensor:
    """max(0, |mine_n - mine_m|^2 - |mine_n - random_n|^2 + margin), and 0 for n = m.

    Args:
        mine: (B, features), of the windows' crops.
        random: (B, features), of the random crops.
        margin: of the hinge.

    Returns:
        (B, B): row n, column m.
    """
    length = mine.square().sum(1)
    same = (length[:, None] + length - 2 * mine @ mine.T).clamp(min=0)
    other = (mine - random).square().sum(1)
    hinge = F.relu(same - other[:, None] + margin)
    return hinge - torch.diag_embed(hinge.diagonal())


def iou(a: Tensor, b: Tensor) -> Tensor:
    """The intersection over union of each box of a, (N, 4), with the same one of b: (N,).

    Boxes are left, top, right, bottom.
    """
    least, most = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (most - least).clamp(min=0).prod(1)
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    return common / both.clamp(min=1e-12)


def draw(model: nn.Module, data: SharedDigit, folder: Path, subject: Subject) -> dict[str, Path]:
    """`windows`, the predicted windows over training as a strip, and `windows_animation`.

    They need the weights that `trainer.snapshot_every` stores; without, there is a strip of the last step alone.
    """
    from experiments.sections.figures import (  # matplotlib: slow to import
        windows_animation,
        windows_over_steps,
    )

    images, truth = data.test.images[:EXAMPLES].float() / 255, data.test.labels[:EXAMPLES].cpu()
    last = {key: value.clone() for key, value in model.state_dict().items()}
    windows: dict[int | str, Tensor] = {}
    with torch.inference_mode():
        for step, path in checkpoint.snapshots(folder).items():
            model.load_state_dict(checkpoint.load(path, images.device))
            windows[step] = model(images)[0].float().cpu()
        model.load_state_dict(last)
        if not windows:
            windows["last"] = model(images)[0].float().cpu()
    shown = images.cpu()
    strip = {step: windows[step] for step in thin(list(windows), STRIP)}
    what = f"images that share the digit {data.digit}"
    title = subject.title(f"Without labels, a window is to find what {what} have in common")
    note = f"The first {len(shown)} of {len(data.test.labels)} images; a row a step of the training."
    note = subject.note(note)
    path = folder / "windows.png"
    paths = {"windows": windows_over_steps(shown, truth, strip, path, title=title, note=note)}
    if len(windows) > 1:
        path = folder / "windows.gif"
        title = f"A window is to find what {what} have in common"
        paths["windows_animation"] = windows_animation(shown, truth, windows, path, title=title)
    return paths


def thin(steps: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the steps, evenly spread, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)]


WORDS = Words(
    {"colocalisation": "images that share one digit"},
    score=Score("test_localised", "the digit is found in {:.0f} % of the images"),
)
SECTION = Section(name="colocalisation", tables=(COLOCALISATION,), draw=draw, claims=(CLAIM,), words=WORDS)
