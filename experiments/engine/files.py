"""Files that are written whole or not at all."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def write_atomically(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Writes a temporary file and renames it: a kill at any moment leaves the old file or the new one.

    The temporary file's name is always the same, so that the next attempt overwrites what a kill has left. Only one
    process at a time may write `path`; for a run directory its lock sees to that.

    Args:
        path: the file; missing folders are made.
        write: writes the content into the path that it is given.
        keep: the old file is renamed to this. A kill between the two renamings leaves it under this name alone.

    Raises:
        OSError: the disk is full, read-only or broken; its `filename` is set. No half file is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = str(path)  # not that of the temporary file, and a stream's error has none
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused with a ValueError."""
    text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
