"""Checkpoints, snapshots of the weights, the best weights, and the state of every random generator."""

import logging
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.engine.build import UserError
from experiments.engine.files import write_atomically
from experiments.engine.rundir import BEFORE, LAST
from stn.files import load_tensors

log = logging.getLogger(__name__)


def save(path: Path, state: Any) -> None:
    """Writes a state atomically: tensors, numbers, strings and containers of them, which weights_only=True can read."""
    write_atomically(path, lambda temporary: _write(temporary, state))


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Writes last.pt of a run directory, and keeps the one before it as before.pt."""
    write_atomically(folder / LAST, lambda temporary: _write(temporary, state), keep=folder / BEFORE)


def _write(path: Path, state: Any) -> None:
    try:
        with open(path, "wb") as file:  # of a path, torch tells nothing of the error of a write
            torch.save(state, file)
    except RuntimeError as error:  # torch's, as it closes the archive that a full disk has cut short
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_last(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], Path] | tuple[None, None]:
    """Reads last.pt of a run directory; before.pt where last.pt is damaged or missing, and says so.

    Returns:
        The state and the file that it is from; (None, None) where there is neither.

    Raises:
        UserError: all that there are are damaged.
    """
    damaged: list[UserError] = []
    for path in (folder / LAST, folder / BEFORE):
        if not path.exists():
            continue
        try:
            state = load(path, device)
        except UserError as error:
            damaged.append(error)
            continue
        if path.name == BEFORE:
            log.warning("%s is damaged or missing: going on from the checkpoint before it.", folder / LAST)
        return state, path
    if damaged:
        raise damaged[0]
    return None, None


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads what `save` has written.

    Raises:
        UserError: the file is not a checkpoint.
    """
    try:
        state = load_tensors(path, device)
    except (OSError, ValueError) as error:
        raise UserError(f"Not a checkpoint: {error} Delete it to start the run anew.") from None
    if not isinstance(state, dict):
        raise UserError(
            f"Not a checkpoint: {path} holds a {type(state).__name__}. Delete it to start the run anew."
        )
    return state


def snapshot_path(folder: Path, step: int) -> Path:
    """Returns where `trainer.snapshot_every` keeps the network's weights of a step."""
    return folder / "snapshots" / f"step_{step:06d}.pt"


def snapshots(folder: Path) -> dict[int, Path]:
    """Returns step -> path of the snapshots of a run directory, in the order of the steps."""
    found = sorted((folder / "snapshots").glob("step_*.pt"))
    return {int(path.stem.removeprefix("step_")): path for path in found}


def random_state() -> dict[str, Any]:
    """Returns the state of every global generator. Streams keep their own generator's state."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(numbers), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets every global generator to a state of `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class Best:
    """The weights with the lowest validation error so far, on the CPU.

    They are part of the checkpoint, so that a resumed run compares only with its own past; best.pt is a copy of them.

    Attributes:
        state: `step`, `val_error` in percent and `model`, the weights; None before the first validation.
    """

    def __init__(self, path: Path, state: dict[str, Any] | None = None) -> None:
        self.path, self.state = path, state
        self._written: dict[str, Any] | None = None

    def offer(self, step: int, error: float, model: nn.Module) -> None:
        """Keeps a copy of the network's weights where the error is lower than any before."""
        if self.state is None or error < self.state["val_error"]:
            weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            self.state = {"step": step, "val_error": error, "model": weights}

    def save(self) -> None:
        """Writes best.pt where the weights have changed since it was written."""
        if self.state is not None and self.state is not self._written:
            save(self.path, self.state)
            self._written = self.state
