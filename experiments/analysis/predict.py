"""What a trained classifier says of image files: class, probability, theta, and a picture of the windows."""

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from experiments.engine.build import UserError, offered
from experiments.engine.files import write_atomically
from experiments.engine.identity import current_name, transform_name
from experiments.engine.loading import Trained, load_network
from experiments.engine.result import Result
from experiments.report.subject import Subject
from experiments.sections import words_of
from stn.datasets.decoding import decode
from stn.datasets.distorted import DistortedDigits
from stn.datasets.folder_layout import images_below
from stn.datasets.image_cache import ImageCache, shorter_side
from stn.datasets.images import ImageDataset
from stn.files import list_problems

DIGIT = 28  # side of an undistorted digit, pixels
BATCH = 50
TABLE, PICTURE = "predictions.csv", "predictions.png"


@dataclass(frozen=True)
class Predictions:
    """What a network says of images.

    Attributes:
        files: that could be read.
        images: (N, C, S, S) in [0, 1], as the network saw them.
        classes: the name of the most probable class of each.
        probabilities: (N,), the softmax of that class.
        theta: (N, K, num_params); None of a network without transformers.
    """

    files: Sequence[Path]
    images: Tensor
    classes: Sequence[str]
    probabilities: Tensor
    theta: Tensor | None


def predict_files(
    run: Path,
    paths: Sequence[Path],
    out: Path,
    arguments: Mapping[str, Any],
    *,
    invert: bool = False,
    shown: int = 12,
) -> tuple[list[str], list[str]]:
    """Classifies image files with the network of a run, and writes predictions.csv and predictions.png.

    Photographs are prepared as test images are: scaled to 8/7 of the network's side on their shorter side, then their
    middle square. Digits are prepared as `prepare_digit` says. An image that cannot be read is left out.

    Args:
        run: the run directory, which may be somebody else's.
        paths: image files, and folders of them.
        out: the folder that is written to.
        arguments: what the stored configuration leaves out, as of `load_network`.
        invert: whether digits are dark on white.
        shown: how many images the picture has, the first ones; from 1.

    Returns:
        Sentences: what was written and what is doubtful; and which images were left out.

    Raises:
        UserError: there are no images, none can be read, or the network classifies neither digits nor photographs.
    """
    if shown < 1:
        raise UserError(f"--shown {shown} is not valid: it is a whole number from 1.")
    files = image_files(paths)
    trained = load_network(run, arguments)
    photographs = _takes_photographs(trained, run)
    if invert and photographs:
        raise UserError("--invert is of digits, and this network was trained on photographs.")
    side = trained.in_shape[-1]
    images, read, unread, bright = [], [], [], []
    with tempfile.TemporaryDirectory() as cache:
        for file in files:
            try:
                if photographs:
                    image = _photograph(file, trained.in_shape, Path(cache))
                else:
                    digit = decode(file, channels=1)
                    digit = ImageOps.invert(digit) if invert else digit
                    bright += [str(file)] if _is_bright(digit) else []
                    image = np.asarray(prepare_digit(digit, side))[..., None]
            except ValueError:
                unread.append(str(file))
                continue
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            read.append(file)
    if not read:
        raise UserError(f"{list_problems(unread, 'images cannot be read')}: nothing is written.")
    found = predict(trained, read, torch.stack(images).float() / 255)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / TABLE, lambda path: _write_table(found, path))
    _draw(found, trained, run, out / PICTURE, min(shown, len(read)), photographs=photographs)
    said = [f"{len(read)} images, {trained.progress}: {out / TABLE} and {out / PICTURE}"]
    if bright:
        turn = "was --invert wrong?" if invert else "are they dark on white? Then give --invert."
        said.append(f"{list_problems(bright, 'images have a bright edge')}: {turn}")
    return said, [f"{list_problems(unread, 'images cannot be read')}: they are left out."] if unread else []


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files among and below some paths, in their order; those of a folder by name.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        inside = images_below(path) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise UserError(f"{path} holds no images: give image files, or folders of them.")
        files += inside
    return files


def prepare_digit(image: Image.Image, side: int) -> Image.Image:
    """Places a digit where the training has it on average: in the middle, of MNIST's size.

    Args:
        image: grey, white on black.
        side: of the network's input, pixels.

    Returns:
        An image that is side x side already, as it is. Any other is scaled, so that its longer side has 28 pixels, as
        MNIST's images have, and lies in the middle of a black square.
    """
    if image.size == (side, side):
        return image
    factor = min(DIGIT, side) / max(image.size)
    width, height = (max(1, round(factor * length)) for length in image.size)
    square = Image.new("L", (side, side))
    square.paste(
        image.resize((width, height), Image.Resampling.BILINEAR), ((side - width) // 2, (side - height) // 2)
    )
    return square


@torch.inference_mode()
def predict(trained: Trained, files: Sequence[Path], images: Tensor) -> Predictions:
    """Classifies images.

    Args:
        trained: the network.
        files: N files, for the table.
        images: (N, C, S, S) in [0, 1].
    """
    probabilities, thetas = [], []
    for batch in images.split(BATCH):
        logits, aux = trained.network(batch)
        probabilities.append(logits.float().softmax(1))
        thetas += [aux["theta"].float()] if "theta" in aux else []
    best = torch.cat(probabilities).max(1)
    names = [trained.classes[i] for i in best.indices.tolist()]
    return Predictions(files, images, names, best.values, torch.cat(thetas) if thetas else None)


def _takes_photographs(trained: Trained, run: Path) -> bool:
    """Whether the network was trained on photographs, and not on single digits.

    Raises:
        UserError: it was trained on neither.
    """
    data = offered(current_name(trained.config["dataset"]["_target_"]))
    kind = data if isinstance(data, type) else object
    if trained.num_classes is not None and len(trained.in_shape) == 3:
        if issubclass(kind, ImageDataset):
            return True
        if issubclass(kind, DistortedDigits) and trained.in_shape[0] == 1:
            return False
    raise UserError(
        f"{run} was trained on {kind.__name__}, images of shape {trained.in_shape}: predictions are made by networks "
        "that classify single digits or photographs."
    )


def _photograph(file: Path, in_shape: Sequence[int], cache: Path) -> np.ndarray:
    """The middle square, (size, size, C), uint8, decoded and scaled by the code that does it for the test set."""
    channels, _, size = in_shape
    decoded = ImageCache([file], side=shorter_side(size), folder=cache, name="image", channels=channels)
    height, width = decoded.shape(0)
    return decoded.crop(0, (height - size) // 2, (width - size) // 2, size)


def _is_bright(image: Image.Image) -> bool:
    """Whether the edge of an image is nearer to white than to black."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool(edge.mean() > 127)


def _write_table(found: Predictions, path: Path) -> None:
    count, numbers = (0, 0) if found.theta is None else found.theta.shape[1:]
    heads = [f"st{k}_theta_{p}" for k in range(count) for p in range(numbers)]
    thetas = [[] for _ in found.files] if found.theta is None else found.theta.flatten(1).tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "probability", *heads])
        for row in zip(found.files, found.classes, found.probabilities.tolist(), thetas, strict=True):
            name, predicted, probability, theta = row
            table.writerow([name, predicted, f"{probability:.6g}", *(f"{number:.6g}" for number in theta)])


def _subject(config: Mapping[str, Any], run: Path) -> Subject:
    """The run in words: with its error where it is finished."""
    own, experiment = run / "result.json", config["experiment"]
    facts = {
        "experiment": experiment,
        "dataset": config["dataset"]["name"],
        "model": config["model"]["name"],
        "transform": transform_name(config),
        "config": config,
    }
    return words_of(experiment).subject(Result.read(own).to_dict() if own.exists() else facts)


def _draw(
    found: Predictions, trained: Trained, run: Path, path: Path, shown: int, *, photographs: bool
) -> None:
    from experiments.sections.figures import crops, examples  # matplotlib: slow to import

    subject = _subject(trained.config, run)
    title = subject.title(f"{subject.network}, trained on {subject.data}, says what these images are")
    images, names = found.images[:shown], [file.name for file in found.files[:shown]]
    if photographs:
        crops(trained.network, images, None, trained.classes, path, title=title, files=names)
    else:
        examples(trained.network, images, None, path, title=title, files=names)
