"""The lists of CUB-200-2011: what the official text files say of every image (section 4.3)."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stn.files import list_problems

__all__ = ["BODY", "FOLDER", "HEAD", "PARTS", "BirdLists", "copy_classes", "read_lists"]

FOLDER = "CUB_200_2011"  # what the official archive unpacks to
LISTS = ("images", "image_class_labels", "train_test_split", "classes", "bounding_boxes", "parts/part_locs")
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
HEAD = ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat")
BODY = tuple(part for part in PARTS if part not in HEAD)


@dataclass(frozen=True)
class BirdLists:
    """What is known of every image, in the order of images.txt.

    Attributes:
        files: paths of the images.
        labels: (N,), int64, classes from 0.
        training: (N,), bool, whether an image is of the training set.
        classes: names of the classes.
        boxes: (N, 4), left, top, width, height of the bird, pixels.
        parts: (N, 15, 3), of each of the `PARTS` x and y in pixels, and 1 where it is visible, else 0.
    """

    files: list[Path]
    labels: Tensor
    training: Tensor
    classes: list[str]
    boxes: Tensor
    parts: Tensor


def read_lists(root: Path, expected: Mapping[str, int] | None = None) -> BirdLists:
    """Reads the lists of a data set in the official layout.

    Args:
        root: the folder with images.txt, images/ and parts/.
        expected: the numbers of `classes`, `images`, `train` and `test` images that there must be. None: any.

    Returns:
        The lists.

    Raises:
        ValueError: A list is missing or damaged, or has another length than expected.
    """
    missing = [f"{name}.txt" for name in LISTS if not (root / f"{name}.txt").is_file()]
    if missing:
        raise ValueError(
            list_problems(missing, f"lists are missing in {root}") + ". Unpack the data set anew."
        )
    try:
        paths, labels, split, classes, boxes = (_read_pairs(root / f"{name}.txt") for name in LISTS[:5])
        ids = list(paths)
        rows = {image: row for row, image in enumerate(ids)}
        parts = torch.zeros(len(ids), len(PARTS), 3)
        for line in (root / "parts" / "part_locs.txt").read_text().splitlines():
            image, part, *place = line.split()
            column = range(1, len(PARTS) + 1).index(int(part))
            parts[rows[image], column] = torch.tensor([_finite(number) for number in place])
        numbers = {name: row for row, name in enumerate(classes)}
        lists = BirdLists(
            files=[root / "images" / _inside(paths[i]) for i in ids],
            labels=torch.tensor([numbers[labels[i]] for i in ids]),
            training=torch.tensor([{"0": False, "1": True}[split[i]] for i in ids]),
            classes=[name.split(".", 1)[-1].replace("_", " ") for name in classes.values()],
            boxes=torch.tensor([[_finite(number) for number in boxes[i].split()] for i in ids]).reshape(
                -1, 4
            ),
            parts=parts,
        )
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"The lists in {root} do not agree with each other ({type(error).__name__}: {error}): unpack the data set "
            "anew."
        ) from error
    counts = {
        "classes": len(classes),
        "images": len(ids),
        "train": int(lists.training.sum()),
        "test": int((~lists.training).sum()),
    }
    wrong = [
        f"{counts[key]} {key}, not {count}" for key, count in (expected or {}).items() if counts[key] != count
    ]
    if wrong:
        raise ValueError(f"The lists in {root} are not of the whole data set: {'; '.join(wrong)}.")
    return lists


def copy_classes(root: Path, into: Path, classes: int) -> None:
    """Copies the first classes of a data set in the official layout: their images, and their lines of the lists.

    Args:
        root: the folder with images.txt, images/ and parts/.
        into: the folder that gets the same files; it is made.
        classes: number of classes.

    Raises:
        ValueError: as of `read_lists`.
        OSError: an image is missing, or cannot be written.
    """
    lists = read_lists(root)
    first = set(list(_read_pairs(root / "classes.txt"))[:classes])
    labels = _read_pairs(root / "image_class_labels.txt")
    chosen = {image for image, label in labels.items() if label in first}
    for name in LISTS:
        kept = first if name == "classes" else chosen
        lines = (root / f"{name}.txt").read_text().splitlines(keepends=True)
        file = into / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(line for line in lines if line.strip() and line.split()[0] in kept))
    for path, label in zip(lists.files, lists.labels.tolist(), strict=True):
        if label < classes:
            copy = into / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _inside(path: str) -> str:
    """The path of an image, which must not lead out of images/."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path} is no path in images/")
    return path


def _read_pairs(path: Path) -> dict[str, str]:
    """Lines "id value" -> {id: value}."""
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    return {key: value.strip() for key, value in lines}
