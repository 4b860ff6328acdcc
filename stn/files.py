"""Where data are kept, and what is said of files that are not as they should be."""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DataNotFoundError", "list_problems", "resolve_data_dir"]


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
