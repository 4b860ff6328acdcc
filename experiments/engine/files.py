"""Files that are whole or absent."""

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # of the repository


def write_atomically(path: Path, write: Any) -> None:
    """Calls write(temporary path), then renames it to `path`: a kill at any moment leaves the old file or the new.

    The temporary name is always the same, so that what a kill leaves is overwritten by the next attempt; the run
    directory's lock keeps a second writer away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
