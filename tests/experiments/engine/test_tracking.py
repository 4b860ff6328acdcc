"""W&B mirrors result.json, read back with W&B's own reader; and its failure is not ours."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engine import rundir, tracking
from experiments.engine.run import run


def read_back(folder: Path) -> dict:
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [
        str(Path(sys.executable).with_name("wandb")),
        "leet",
        "inspect",
        "--summary",
        "--json",
        str(log),
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_offline_run_reads_back_with_the_numbers_of_result_json(configure):
    cfg = configure("wandb.mode=offline")
    result = run(cfg)
    held = read_back(rundir.run_dir(cfg))
    text = json.dumps(held)
    summary = held["summary"]
    for key in ("test_error", "test_loss"):
        assert float(summary[key]) == pytest.approx(result["metrics"][key], rel=1e-9)
    for key in ("parameters", "width", "test_fingerprint", "config_hash", "iterations", "git_revision"):
        assert str(result[key]) in text, key
    for tag in ("mnist_rts", "st_cnn", "affine", "smoke", "digits"):
        assert f'"{tag}"' in text


def test_training_goes_on_when_wandb_cannot_start(configure, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no disk, no network, no luck")

    monkeypatch.setattr(tracking.Tracker, "_start", broken)
    with caplog.at_level(logging.WARNING):
        result = run(configure("wandb.mode=offline"))
    assert result["iterations"] == 4
    assert "training goes on without it" in caplog.text


def test_it_falls_silent_after_the_first_failure(tmp_path, caplog):
    class Broken:
        calls = 0

        def log(self, *_, **__):
            Broken.calls += 1
            raise OSError("gone")

    tracker = tracking.Tracker(
        tmp_path, mode="disabled", project="p", entity=None, group="g", name="n", tags=[], config={}
    )
    tracker._run = Broken()
    tracker.log(1, {"a": 1.0})
    tracker.log(2, {"a": 1.0})
    tracker.finish()
    assert Broken.calls == 1
    assert caplog.text.count("W&B stopped") == 1
