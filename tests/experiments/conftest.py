"""Small runs on the embedded digits, in a folder of the test's own."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from experiments.engine.configuration import configuration

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "dataset=digits", "trainer=smoke", "device=cpu", "threads=1", "model.width=4", "trainer.iterations=4",
    "trainer.batch_size=8", "trainer.log_every=2", "trainer.checkpoint_every=2", "trainer.val_every=2",
    "wandb.mode=disabled", "figures=false",
)  # fmt: skip


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., DictConfig]:
    """configure("experiment=mnist_r", ...): the configuration of a four-step run, writing below tmp_path."""

    def make(*overrides: str, tiny: bool = True) -> DictConfig:
        return configuration([*(TINY if tiny else ()), f"output_dir={tmp_path}/outputs", *overrides])

    return make


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """script("reproduce.py", "tc", ...): its exit status and what it says, in this process: another takes seconds."""

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return call
