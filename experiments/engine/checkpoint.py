"""Checkpoints, and the state of every random generator."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.engine.build import UserError
from experiments.engine.files import write_atomically


def save(path: Path, state: dict[str, Any]) -> None:
    """state: tensors, numbers, strings and containers of them, so that it loads with weights_only=True."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """raises: UserError where the file is not a checkpoint."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({error}): delete it to start the run anew."
        ) from error


def random_state() -> dict[str, Any]:
    """Every global generator's state; streams keep their own beside it."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(numbers), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class Best:
    """The weights with the lowest validation error so far, on the CPU.

    They are part of the checkpoint, so that a resumed run knows those of its own past and no others; best.pt is a copy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] | None = None  # step, val_error (percent), model
        self._written: dict[str, Any] | None = None

    def offer(self, step: int, error: float, model: nn.Module) -> None:
        if self.state is None or error < self.state["val_error"]:
            weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            self.state = {"step": step, "val_error": error, "model": weights}

    def save(self) -> None:
        if self.state is not self._written:
            save(self.path, self.state)
            self._written = self.state
