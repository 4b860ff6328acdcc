"""Where a training starts that does not start afresh: the weights of another run."""

import hashlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError

log = logging.getLogger(__name__)


def weights_sha256(run: str | Path) -> str:
    """The sha256 of the weights in a run's last checkpoint: of names, types, shapes and bytes, in the order of names.

    Args:
        run: the run directory. It may be somebody else's.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    path = _checkpoint(run)
    return _weights_sha256(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _weights_sha256(path: Path, modified: int) -> str:
    return sha256_of(_weights(path))


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """As `weights_sha256`, of weights that have been read."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_initial(cfg: DictConfig) -> None:
    """Refuses keys about initial weights that say nothing, or not the truth.

    Raises:
        UserError: names the key.
    """
    run, without = cfg.get("init_from"), cfg.get("init_without")
    if run is None and without is not None:
        raise UserError(
            f"init_without={without} needs init_from=FOLDER, the run that the other weights are from."
        )
    weights = None if run is None else weights_sha256(run)  # first: its error has a sentence
    if cfg.get("init_weights") != weights:
        raise UserError("init_weights is not given: it follows from init_from=FOLDER.")


def load_initial(model: nn.Module, run: str, without: str | None = None) -> None:
    """Gives a network the weights of a run.

    Args:
        model: the network; it is changed.
        run: the run directory.
        without: the module of the network that keeps its own weights, such as "classifier"; None: none.

    Raises:
        UserError: the weights are of another network; it names what does not fit.
    """
    path = _checkpoint(run)

    def taken(name: str) -> bool:
        return without is None or not f"{name}.".startswith(f"{without}.")

    wanted = {name: value for name, value in model.state_dict().items() if taken(name)}
    if without is not None and len(wanted) == len(model.state_dict()):
        parts = ", ".join(name for name, _ in model.named_children())
        raise UserError(
            f"init_without={without} names no part of this network: choose one of {parts}, or one inside."
        )
    weights = {name: value for name, value in _weights(path).items() if taken(name)}
    wrong = [
        f"{name} {tuple(weights[name].shape)} -> {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name].shape
    ]
    if not wrong:
        found = model.load_state_dict(weights, strict=False)
        wrong += [f"{name} is missing there" for name in found.missing_keys if taken(name)]
        wrong += [f"{name} is not known here" for name in found.unexpected_keys]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"init_from={run} has weights of another network: {'; '.join(wrong[:5])}{more}. Choose the model and the "
            "data that it was trained with; init_without=PART starts one part afresh, such as the classifier of other "
            "classes."
        )
    log.info("Starting from the weights of %s%s.", run, f", all but {without}" if without else "")


def _checkpoint(run: str | Path) -> Path:
    path = Path(str(run)) / checkpoint.LAST  # a folder's name may look like a number
    if not path.is_file():
        raise UserError(
            f"init_from={run} has no {checkpoint.LAST}: give the directory of a run that has trained."
        )
    return path


def _weights(path: Path) -> dict[str, Tensor]:
    weights: Any = checkpoint.load(path).get("model")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"init_from: {path} holds no weights of a network.")
    return weights
