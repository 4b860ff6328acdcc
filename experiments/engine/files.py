"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary file and renames it: a kill at any moment leaves the old file or the new one.

    The temporary file's name is always the same, so that the next attempt overwrites what a kill has left. Only one
    process at a time may write `path`; for a run directory its lock sees to that.

    Args:
        path: the file; missing folders are made.
        write: writes the content into the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused with a ValueError."""
    text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
