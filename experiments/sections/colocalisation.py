"""Co-localisation (paper appendix A.2): without labels or boxes, a transformer finds what a hundred images share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.interfaces import Aux, Batch, Sums, Task
from experiments.engine.loading import load_network
from experiments.engine.task import Classification
from experiments.report import Claim, Level, Result, Row, Section, Table, runs_in
from experiments.report.subject import Score, Subject, Words
from stn.datasets.colocalisation import SharedDigit, roll_each
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

MARGIN = 10  # points: a share of 100 images is uncertain by about as much
CLAIM = Claim(
    9,
    "Without labels or boxes, a transformer finds what a hundred images have in common.",
    "appendix A.2, Table 5",
    tuple(
        Level(runs_in(COLOCALISATION, row, column), PAPER[row][column] - MARGIN)
        for row in COLOCALISATION.rows
        for column in COLOCALISATION.columns
    ),
    f"Found means: in more images than the paper's share less {MARGIN} points. A share of a hundred images is "
    "uncertain by up to about as much.",
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
    # Not `load_run`: it seeds, and every seed of the task would train with the same noise.
    model = load_network(folder, {"data_dir": data_dir}).network
    if not isinstance(model, CNN):
        raise UserError(
            f"{folder} holds a {type(model).__name__}, and crops are described by a CNN: model=cnn."
        )
    return model, Result.read(folder / "result.json")


class Colocalisation(Task):
    """The triplet hinge of appendix A.2 on the features e() of crops, from a frozen network, for each image n:

        max(0, near over m of |e(I_n^T) - e(I_m^T)|^2 - least over k of |e(I_n^T) - e(I_n^rand k)|^2 + margin)

    The CNN's three layers of activations are scaled to unit length and concatenated, so that none outweighs the others
    and squared distances lie between 0 and 6 or so.

    Two things keep windows from agreeing on nothing. First, the nearest of several random crops counts: a window that
    shows nothing is as near to a crop that shows nothing. Second, the nearest other images count, by the soft minimum
    `near`. At first few windows are on the digit, and these find each other, but their mean distance to all windows is
    larger than that of windows that show nothing. Once they are, all other images should count, as in the paper, since
    the nearest ones are near at nearly every size: so the temperature of the soft minimum rises.

    theta follows the gradient of the smoothed loss (Gaussian smoothing, Nesterov and Spokoiny 2017), since a window far
    from the digit gets no useful gradient from the pixels at its edge. Each of several looks moves the windows by noise
    and by its mirror image: (loss(theta + noise) - loss(theta - noise)) / (2 sigma^2) * noise, of an image's own hinge.
    What the move of one window does to the hinges of other images is left out: it is one partner of many there.

    Args:
        embedding: the frozen network, and its result.
        margin: of the hinge.
        temperature: of the soft minimum at the start and at the end of training, in squared distances. 0 would be the
            nearest image, infinity the mean.
        looks: pairs of mirrored moves of each image in a step.
        smoothing: standard deviation of the moves at the start and at the end of training, in units of tx and ty.
        size_smoothing: likewise, of the logarithm of s.

    Raises:
        UserError: for numbers out of range.
    """

    separable = False  # images are compared with each other: no part of a batch stands for itself

    def __init__(
        self,
        embedding: Embedding,
        *,
        margin: float = 1.0,
        temperature: Sequence[float] = (0.05, 0.5),
        looks: int = 2,
        smoothing: Sequence[float] = (0.4, 0.03),
        size_smoothing: Sequence[float] = (0.2, 0.1),
    ) -> None:
        if looks < 1:
            raise UserError(f"task.looks={looks} is not valid: it is a number of pairs from 1.")
        pairs = {"temperature": temperature, "smoothing": smoothing, "size_smoothing": size_smoothing}
        for name, values in pairs.items():
            if not values or len(values) != 2 or min(values) <= 0:  # null is for tasks without smoothing
                raise UserError(
                    f"task.{name}={values} is not valid: it is two numbers above 0, such as [0.4,0.05]."
                )
        network, result = embedding
        self.network = network.eval().requires_grad_(False)
        self.margin, self.looks = margin, looks
        # Standard deviations of log s, tx and ty, and the temperature.
        self.first = torch.tensor([size_smoothing[0], smoothing[0], smoothing[0], temperature[0]])
        self.last = torch.tensor([size_smoothing[1], smoothing[1], smoothing[1], temperature[1]])
        self.now = self.first.clone()  # updated in place, for recorded CUDA graphs
        self.metrics = {"embedding_error": result.metric("test_error")}

    def to(self, device: torch.device) -> None:
        self.network.to(device)
        self.first, self.last, self.now = (each.to(device) for each in (self.first, self.last, self.now))

    def at(self, model: Any, share: float) -> None:
        """Sets the standard deviations and the temperature, given the share of the training done.

        Each goes geometrically from its value at the start to that at the end. It is not part of `loss`, since a
        recorded CUDA graph would repeat the state in which it was recorded.
        """
        self.now.copy_(self.first * (self.last / self.first) ** share)

    def describe(self, crops: Tensor) -> Tensor:
        """e(): crops (B, 1, h, w) -> (B, features), three concatenated vectors of unit length."""
        layers = self.network.activations(crops)
        return torch.cat([F.normalize(layer.flatten(1).float(), dim=1) for layer in layers], 1)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        """The loss of a batch.

        Args:
            model: the localiser.
            batch: images (B, 1, S, S), shifts (B, 2) and the windows of the random crops (B, K, 3), as `CropStream`
                draws them. The localiser sees the shifted images. Crops are of the images as they are.

        Returns:
            As `Classification.loss`. The loss is the mean over the moved windows. Of the sums, `violations` is the
            number of images that are not apart by the margin, a mean over the moves.

        Raises:
            UserError: there is one image alone.
        """
        images, shift, windows = batch
        if len(images) < 2:
            raise UserError("Co-localisation compares images with each other: a batch needs two at least.")
        transformers, head = model.transformers, model.head
        sigma, temperature = self.now[:3], self.now[3]
        theta = transformers.locate(roll_each(images, shift))
        at = torch.cat([theta[:, 0, :1].log(), theta[:, 0, 1:]], 1).float()  # log s, tx, ty
        slope = torch.zeros_like(at)
        total = violations = torch.zeros_like(at[:, 0])  # of each image, a mean over the moves
        with torch.no_grad():
            crops = transformers.warp(images, windows)  # (B, K, 1, h, w)
            random = torch.stack([self.describe(each) for each in crops.unbind(1)], 1)
            for _ in range(self.looks):
                noise = sigma * torch.randn_like(at)
                hinges = []
                for move in (noise, -noise):
                    moved = within(at + move, head.smallest, head.largest)
                    warped = transformers.warp(images, unshift(moved, shift, images.shape[-1])[:, None])
                    mine = self.describe(warped[:, 0])
                    hinges.append(triplet_hinge(mine, random, self.margin, temperature))
                    total = total + hinges[-1] / (2 * self.looks)
                    violations = violations + (hinges[-1] > 0) / (2 * self.looks)
                slope += (hinges[0] - hinges[1])[:, None] * noise / (2 * sigma**2) / self.looks
        # The value of the last two terms is 0; their gradient in theta is the estimate.
        estimate = (at * slope).sum(1).mean()
        loss = total.mean() + estimate - estimate.detach()
        count = torch.full((), len(images), device=images.device)
        sums = {"loss": total.sum(), "violations": violations.sum(), "images": count}
        return loss, sums, {"theta": theta, "warped": warped}

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


def within(at: Tensor, smallest: float, largest: float) -> Tensor:
    """Windows (s, tx, ty) in the image, the nearest ones to those of (log s, tx, ty).

    Args:
        at: (B, 3).
        smallest: bound of s.
        largest: bound of s.

    Returns:
        (B, 3).
    """
    side = at[:, :1].exp().clamp(smallest, largest)
    return _in_image(side, at[:, 1:])


def unshift(windows: Tensor, shift: Tensor, side: int) -> Tensor:
    """Where windows in shifted images lie in the images as they were, as far as they are in the image there.

    Args:
        windows: (B, 3), (s, tx, ty) of eq. 2.
        shift: (B, 2), pixels right and down, as of `roll_each`.
        side: of the image, pixels.

    Returns:
        (B, 3).
    """
    centre = (windows[:, 1:] - 2 * shift / side + 1).remainder(2) - 1
    return _in_image(windows[:, :1], centre)


def _in_image(side: Tensor, centre: Tensor) -> Tensor:
    """Windows (B, 3) of these sides (B, 1), in the image and nearest to these centres (B, 2)."""
    return torch.cat([side, centre.maximum(side - 1).minimum(1 - side)], 1)


def triplet_hinge(mine: Tensor, random: Tensor, margin: float, temperature: float | Tensor) -> Tensor:
    """max(0, near_n - least_n + margin) for each image n.

    near_n is the soft minimum of the squared distances d to the windows of the other images,
    -temperature * log(mean(exp(-d / temperature))), and least_n the smallest one to n's own random crops.

    Args:
        mine: (B, features), of the windows' crops.
        random: (B, K, features), of the random crops.
        margin: of the hinge.
        temperature: of the soft minimum, above 0.

    Returns:
        (B,), float32 under autocast too.
    """
    with torch.autocast(mine.device.type, enabled=False):
        length = mine.square().sum(1)
        same = (length[:, None] + length - 2 * mine @ mine.T).clamp(min=0)
        same = same.masked_fill(torch.eye(len(mine), dtype=torch.bool, device=mine.device), torch.inf)
        near = -temperature * ((-same / temperature).logsumexp(1) - math.log(len(mine) - 1))
        # By products, since the differences (B, K, features) are slow to make.
        products = torch.bmm(random, mine[:, :, None])[:, :, 0]  # (B, K)
        others = torch.linalg.vector_norm(random, dim=2).square()
        least = (length[:, None] + others - 2 * products).clamp(min=0).amin(1)
    return F.relu(near - least + margin)


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
