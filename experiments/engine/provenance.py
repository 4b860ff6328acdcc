"""Which code and which libraries a result comes from; and that no secret of the environment is recorded with it."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.engine.build import UserError
from experiments.engine.files import ROOT
from experiments.engine.identity import leaves, stored

CODE = ("train.py", "stn", "experiments", "configs")  # what a result depends on
LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "wandb")
SECRET = re.compile(r"(^|_)(APIKEY|KEY|TOKEN|SECRET|PASS|PASSWD|PASSWORD|CREDENTIALS?)($|_)", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters; a shorter value stands in a text by chance


def git_revision() -> dict[str, Any]:
    """Returns `git_revision`, the commit of this repository, and `git_dirty`, whether the code differs from it.

    Both are None outside a checkout, also where the code was unpacked inside another repository.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return {"git_revision": None, "git_dirty": None}
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


def refuse_secrets(cfg: DictConfig) -> None:
    """Refuses a configuration that would write a value of the environment into config.json, result.json or W&B.

    That is the value of a variable named like a secret, such as WANDB_API_KEY, under any key; and that of a variable
    which the configuration quotes, `${oc.env:NAME}`, under a key that is recorded. Folders are not recorded.

    Raises:
        UserError: names the key and the variable, never the value.
    """
    quoted = set(re.findall(r"oc\.env:\s*(\w+)", OmegaConf.to_yaml(cfg))) - {"STN_DATA_DIR"}  # data_dir's own
    everything: Any = OmegaConf.to_container(cfg, resolve=True)
    for names, values in (
        ([name for name in os.environ if SECRET.search(name)], everything),
        (quoted & os.environ.keys(), stored(cfg)),
    ):
        for key, value in leaves(values):
            for name in names:
                secret = os.environ[name]
                if value == secret or (len(secret) >= SHORTEST_SECRET and secret in str(value)):
                    raise UserError(
                        f"{key} holds the value of the environment variable {name}, which the files of the run would "
                        "record: give it another value, or write out what is no secret."
                    )
