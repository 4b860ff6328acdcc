"""metrics.jsonl: one line of numbers for each logged step."""

import json
from pathlib import Path

from experiments.engine.files import write_atomically


class History:
    """The metrics.jsonl of one run.

    Opening it drops the lines after the checkpoint, which a resumed run logs again, and a line that a kill cut short.

    Args:
        path: the file.
        step: of the checkpoint that the run starts from.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [{"step": at, **metrics} for at, metrics in read_history(path) if at <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(path, lambda temporary: temporary.write_text(text))

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Appends a line."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_history(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Returns step and metrics of each whole line; none where there is no file."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            metrics = json.loads(text)
        except ValueError:  # the line that a kill cut short
            break
        lines.append((metrics.pop("step"), metrics))
    return lines
