"""Where data are kept, and what is said of files that are not as they should be."""

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["DataNotFoundError", "check_plain_name", "list_problems", "load_tensors", "resolve_data_dir"]


class DataNotFoundError(FileNotFoundError):
    """The data are not there and cannot be fetched. The message says where they belong and what works without them.

    Examples:
        >>> isinstance(DataNotFoundError("There is no data/mnist."), FileNotFoundError)
        True
    """


def resolve_data_dir(data_dir: str | Path | None = None) -> Path:
    """The folder that holds the data.

    Args:
        data_dir: the folder. None or empty: the environment variable STN_DATA_DIR, or ./data without it.

    Returns:
        The folder, with ~ expanded. It may not exist.

    Examples:
        >>> resolve_data_dir("here").name
        'here'
    """
    return Path(data_dir or os.environ.get("STN_DATA_DIR") or "data").expanduser()


def list_problems(problems: Sequence[str], what: str) -> str:
    """One sentence about any number of problems: how many, and the first five.

    Args:
        problems: such as the names of files.
        what: what is wrong with them, such as "images are missing".

    Returns:
        The sentence, without a full stop.

    Examples:
        >>> list_problems(["a.png", "b.png"], "images are missing")
        '2 images are missing: a.png, b.png'
    """
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return f"{len(problems)} {what}: {', '.join(problems[:5])}{more}"


def load_tensors(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """What torch.save has written: tensors, numbers, text, and containers of them. Nothing in the file is run.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        What the file holds.

    Raises:
        ValueError: The file holds anything else, such as an object that runs code when it is read, or is damaged.
        FileNotFoundError: There is no such file.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"step": 3}, Path(folder) / "state.pt")
        ...     load_tensors(Path(folder) / "state.pt")
        {'step': 3}
    """
    try:
        # torch does not read the archive's checksums: a flipped bit would become a wrong number.
        if not zipfile.is_zipfile(path) or _intact(path):
            return torch.load(path, map_location=device, weights_only=True)
        why = "its checksum is wrong"
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises half a dozen kinds
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it would call {named[1]}" if named else "it is damaged, or no file of tensors"
    # Not from the error: torch's message explains how to run whatever is in the file.
    raise ValueError(f"{path} cannot be read ({why}); only tensors, numbers and text are read from a file.")


def _intact(path: str | Path) -> bool:
    """Whether all members of an archive have their checksums."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def check_plain_name(key: str, name: str) -> None:
    """Refuses a name that leads out of the folder that it is used in.

    Args:
        key: of the configuration, for the message.
        name: of a file or folder.

    Raises:
        ValueError: The name is empty, has a separator, or starts with a dot.

    Examples:
        >>> check_plain_name("dataset.folder", "cub50")
    """
    if not re.fullmatch(r"[^./\\\0][^/\\\0]*", name):
        raise ValueError(
            f"{key}={name} is not valid: it is a plain name, without / and without a dot in front."
        )
