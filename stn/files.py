"""Where data are kept."""

import os
from pathlib import Path

__all__ = ["DataNotFoundError", "resolve_data_dir"]


class DataNotFoundError(FileNotFoundError):
    """The data are neither there nor to be had. The message says where they belong and what works without."""


def resolve_data_dir(data_dir: str | Path | None = None) -> Path:
    """The folder that data are kept in: the argument, else the environment's STN_DATA_DIR, else ./data."""
    return Path(data_dir or os.environ.get("STN_DATA_DIR") or "data").expanduser()
