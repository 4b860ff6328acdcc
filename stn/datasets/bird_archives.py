"""CUB-200-2011 on disk: where its folder is, and how its archives are unpacked and checked."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from stn.datasets.bird_lists import FOLDER, copy_classes, read_lists
from stn.files import DataNotFoundError, check_plain_name, list_problems, resolve_data_dir

__all__ = ["find_birds", "install", "install_classes", "make_once", "unpack"]

OFFICIAL = {"classes": 200, "images": 11788, "train": 5994, "test": 5794}
SOURCE = "https://data.caltech.edu/records/65de6-vp158"


def find_birds(folder: str, data_dir: str | Path | None, cache_dir: str | Path) -> Path:
    """Finds a data set in the official layout, unpacked or in archives.

    The unpacked data set is looked for in data_dir/<folder>/CUB_200_2011 and, for `cub`, in data_dir/CUB_200_2011.
    Otherwise the archives (.tar, .tgz, .tar.gz) in data_dir/<folder> are unpacked, once.

    Args:
        folder: name of the folder, such as `cub`.
        data_dir: as of `stn.files.resolve_data_dir`.
        cache_dir: folder that archives are unpacked in.

    Returns:
        The folder with images.txt.

    Raises:
        DataNotFoundError: There is neither folder nor archive.
        ValueError: An archive cannot be read, would write outside of its folder, or is of another data set; or `folder`
            is no plain name.
    """
    check_plain_name("dataset.folder", folder)
    data = resolve_data_dir(data_dir)
    for root in (data / folder / FOLDER, *([data / FOLDER] if folder == "cub" else [])):
        if (root / "images.txt").is_file():
            return root
    archives = sorted(
        path for path in (data / folder).glob("*") if path.name.endswith((".tar", ".tgz", ".tar.gz"))
    )
    if not archives:
        name = "cub50" if folder == "cub50" else "cub"
        raise DataNotFoundError(
            f"No birds in {os.path.abspath(data / folder)}. Get CUB_200_2011.tgz (1.1 GB) from {SOURCE} and run "
            f"python scripts/prepare_data.py {name} --archive FILE, or name the folder above another "
            f"{folder}/ with data_dir=DIR or STN_DATA_DIR. Without birds, drawn ones work: dataset=toy_birds"
        )
    return make_once(Path(cache_dir) / folder, lambda into: unpack(archives, into))


def unpack(archives: Sequence[Path], into: Path) -> None:
    """Unpacks archives.

    Args:
        archives: .tar, .tgz or .tar.gz files.
        into: the folder.

    Raises:
        ValueError: An archive cannot be read, or would write outside of the folder.
    """
    for archive in archives:
        try:
            with tarfile.open(archive) as file:
                file.extractall(into, filter="data")
        except tarfile.FilterError as error:
            raise ValueError(
                f"{archive} would write outside of its folder ({error}): it is not the official one."
            ) from error
        except (OSError, EOFError, tarfile.TarError) as error:
            raise ValueError(f"{archive} cannot be unpacked ({error}): download it anew.") from error


def install(archive: Path | None, data_dir: str | Path | None = None) -> Path:
    """Unpacks the whole data set under data_dir/cub and checks it: lists, counts, every image.

    Args:
        archive: CUB_200_2011.tgz. None: what is there is checked.
        data_dir: as of `stn.files.resolve_data_dir`.

    Returns:
        The folder with images.txt.

    Raises:
        DataNotFoundError: There is nothing to check.
        ValueError: The archive or the data set is damaged.
    """
    folder = resolve_data_dir(data_dir) / "cub"
    if archive is not None:
        make_once(folder, lambda into: unpack([archive], into))
    root = find_birds("cub", data_dir, folder)
    lists = read_lists(root, OFFICIAL)
    broken = [str(path) for path in lists.files if not _readable(path)]
    if broken:
        raise ValueError(
            list_problems(broken, "images are missing or cannot be read") + ". Unpack the data set anew."
        )
    return root


def install_classes(classes: int, data_dir: str | Path | None = None) -> Path:
    """Copies the first classes of the whole data set to data_dir/cub<classes>, once.

    Args:
        classes: number of classes.
        data_dir: as of `stn.files.resolve_data_dir`.

    Returns:
        The folder with images.txt.

    Raises:
        DataNotFoundError: There is no whole data set.
        ValueError: Its lists are damaged.
    """
    folder = resolve_data_dir(data_dir) / f"cub{classes}"
    root = find_birds("cub", data_dir, folder.parent / "cub")
    return make_once(folder, lambda into: copy_classes(root, into / FOLDER, classes))


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Makes folder/CUB_200_2011 where it is not there, whole or not at all; of several processes one makes it.

    Args:
        folder: the folder.
        make: makes CUB_200_2011 in the temporary folder that it is given.

    Returns:
        folder/CUB_200_2011.

    Raises:
        ValueError: `make` made something else.
    """
    root = folder / FOLDER
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if not root.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
                make(Path(temporary))
                made = Path(temporary) / FOLDER
                if not made.is_dir():
                    raise ValueError(
                        f"There is no {FOLDER}/ in the archives for {folder}: are they of another data set?"
                    )
                shutil.move(made, root)
    return root


def _readable(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True
