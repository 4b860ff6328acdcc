"""Which images a folder of images holds: their classes, what each is for, and what is left out."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from stn.files import DataNotFoundError

__all__ = ["Layout", "content_of", "images_below", "read_layout"]

# Endings of the files that are images.
ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
WANTED = (
    "dataset.root=FOLDER is a folder with one folder of images a class, or with train/ and val/, valid/, validation/ "
    "or test/, each with one folder a class."
)


@dataclass
class Layout:
    """The images of a folder.

    Attributes:
        root: the folder, absolute.
        classes: names, sorted.
        files: of all images, by part, class and name.
        labels: of the files.
        parts: of the files: `train`, `validation` or `test`; None where the folder has no parts.
        folders: part -> name of its folder.
        left_out: what is no image of a class, in a word or two -> how many files.
    """

    root: Path
    classes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    parts: list[str | None] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def count(self, part: str | None) -> int:
        """The number of images of a part.

        Args:
            part: as in `parts`.
        """
        return self.parts.count(part)


def read_layout(root: str | Path) -> Layout:
    """Reads root/<class>/<image>, or root/train/<class>/<image> beside root/val or root/test.

    `valid` and `validation` are other names of `val`. Of two folders beside `train`, `val` is to validate on and `test`
    to test on; a single one is to test on, whatever its name. Names that begin with a dot, and `__MACOSX`, are skipped.

    Args:
        root: the folder.

    Returns:
        What is in it.

    Raises:
        DataNotFoundError: There is no such folder, it cannot be read, or it has no folders.
        ValueError: The folder has a part without another, two of one kind, or a folder beside the parts; a class holds
            folders of images, or no images, or is only in a part that is not trained on; or there are fewer than two
            classes. The message says what was found.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("train/cat/1.png", "train/dog/1.png", "test/dog/2.png", "test/dog/notes.txt"):
        ...         (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
        ...         (Path(root) / name).touch()
        ...     layout = read_layout(root)
        >>> layout.classes, layout.labels, layout.parts, layout.left_out
        (['cat', 'dog'], [0, 1, 1], ['train', 'train', 'test'], Counter({'.txt': 1}))
    """
    layout = Layout(Path(root).expanduser().resolve())
    folders, files = _entries(layout.root)
    if not folders:
        raise DataNotFoundError(f"{layout.root} holds {len(files)} files and no folders: {WANTED}")
    layout.left_out["outside of a class"] += len(files)
    if any(PARTS.get(folder.name.lower()) == TRAIN for folder in folders):
        for part, folder in _parts(layout.root, folders).items():
            layout.folders[part] = folder.name
            classes, files = _entries(folder)
            if not classes:
                raise ValueError(f"{folder} holds {len(files)} files and no folders: {WANTED}")
            layout.left_out["outside of a class"] += len(files)
            _add(layout, classes, part)
            if not layout.count(part):
                raise ValueError(f"{folder} holds {_listed(classes)}, and no images in them: {WANTED}")
    else:
        _add(layout, folders, None)
    if len(layout.classes) < 2:
        raise ValueError(
            f"{layout.root} holds one class, {layout.classes[0]}, and there is nothing to tell it from: {WANTED}"
        )
    layout.left_out = +layout.left_out  # without what there is none of
    return layout


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and the folders below it, by name, without what the system has put there.

    Args:
        folder: the folder.
    """
    folders, files = _entries(folder)
    inside = [file for file in files if file.suffix.lower() in ENDINGS]
    return sorted(inside + [file for one in folders for file in images_below(one)])


def content_of(layout: Layout) -> dict[str, Any]:
    """What a run is trained and tested on, whatever the folder is called.

    Args:
        layout: as of `read_layout`.

    Returns:
        `classes`, their names; `images`, how many, and `validation`, how many of them are in a folder to validate on;
        `sha256` of the names below the folder and the bytes of all images, 16 hex digits.
    """
    digest = hashlib.sha256()
    for file in layout.files:
        status = file.stat()
        name = file.relative_to(layout.root).as_posix()
        digest.update(f"{name}\0{_digest(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return {
        "classes": layout.classes,
        "images": len(layout.files),
        "validation": layout.count(VALIDATION),
        "sha256": digest.hexdigest()[:16],
    }


def _parts(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Part -> folder, in the order of their use; the only one beside train/ is the test's."""
    strange = [folder for folder in folders if folder.name.lower() not in PARTS]
    if strange:
        raise ValueError(
            f"{root} holds train/ and beside it {_listed(strange)}: {WANTED} If train is a class, give its folder "
            "another name; if the others are no data, move them away."
        )
    found: dict[str, Path] = {}
    for folder in folders:
        part = PARTS[folder.name.lower()]
        if part in found:
            raise ValueError(
                f"{root} holds {found[part].name}/ and {folder.name}/, which mean the same: {WANTED}"
            )
        found[part] = folder
    if list(found) == [TRAIN]:
        raise ValueError(
            f"{root} holds train/ and nothing to test on: {WANTED} dataset.root={found[TRAIN]} tests on a part of it."
        )
    if TEST not in found:
        found[TEST] = found.pop(VALIDATION)
    return {part: found[part] for part in (TRAIN, VALIDATION, TEST) if part in found}


def _add(layout: Layout, folders: Sequence[Path], part: str | None) -> None:
    """Adds the images of one folder a class. The classes are those of the first call, which is the training's."""
    images: dict[str, list[Path]] = {}
    for folder in folders:
        inner, files = _entries(folder)
        if nested := [one for one in inner if images_below(one)]:
            raise ValueError(
                f"{folder} holds folders of images, {_listed(nested)}, and a class is one folder: {WANTED}"
            )
        images[folder.name] = [file for file in files if file.suffix.lower() in ENDINGS]
        others = (file.suffix.lower() for file in files if file.suffix.lower() not in ENDINGS)
        layout.left_out.update(ending or "without an ending" for ending in others)
    if part in (None, TRAIN):
        if empty := [folder for folder in folders if not images[folder.name]]:
            holds = "holds" if len(empty) == 1 else "hold"
            raise ValueError(
                f"{_listed(empty)} of {empty[0].parent} {holds} no images ({', '.join(ENDINGS)}), so training would "
                "never see the class: fill or remove it."
            )
        layout.classes = list(images)
    elif unknown := [
        folder for folder in folders if images[folder.name] and folder.name not in layout.classes
    ]:
        raise ValueError(
            f"{unknown[0].parent} has classes that {layout.folders[TRAIN]}/ has not: {_listed(unknown)}, so training "
            "would never see them. Name the folders alike, or remove what is in one part only."
        )
    for label, name in enumerate(layout.classes):
        layout.files += images.get(name, [])
        layout.labels += [label] * len(images.get(name, []))
        layout.parts += [part] * len(images.get(name, []))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted, without what the system has put there."""
    try:
        with os.scandir(folder) as entries:
            shown = [one for one in entries if not one.name.startswith(".") and one.name != "__MACOSX"]
    except OSError as error:
        raise DataNotFoundError(f"{folder} cannot be read ({error.strerror}): {WANTED}") from error
    folders, files = ([Path(one.path) for one in shown if one.is_dir() == kind] for kind in (True, False))
    return sorted(folders), sorted(files)


def _listed(folders: Sequence[Path]) -> str:
    """The names of the first five folders."""
    more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
    return ", ".join(f"{folder.name}/" for folder in folders[:5]) + more


@lru_cache(maxsize=2**20)
def _digest(file: Path, size: int, modified: int) -> str:
    """sha256 of a file, read once while its size and time of change stay."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
