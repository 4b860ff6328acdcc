"""Which code and which libraries a result comes from."""

import importlib.metadata
import platform
import subprocess
from typing import Any

from experiments.engine.files import ROOT

CODE = ("train.py", "stn", "experiments", "configs")  # what a result depends on
LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "wandb")


def git_revision() -> dict[str, Any]:
    """Returns `git_revision`, the commit of this repository, and `git_dirty`, whether the code differs from it.

    Both are None outside a checkout.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {
            "git_revision": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--", *CODE)),
        }
    except (OSError, subprocess.SubprocessError):
        return {"git_revision": None, "git_dirty": None}


def versions(*more: str) -> dict[str, str]:
    """Returns the versions of Python, of `LIBRARIES` and of more, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
