"""Runs side by side: intervals and tests against scipy and by hand, and the whole from runs on the disk."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.compare import (
    common_metrics,
    curves,
    differing,
    main_metric,
    mcnemar,
    paired,
    report,
    variants,
)
from experiments.engine.build import UserError
from experiments.engine.run import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two models, two seeds, three steps each."""
    from experiments.engine.configuration import configuration

    folder = tmp_path_factory.mktemp("outputs")
    for model in ("fcn", "st_fcn"):
        for seed in (0, 1):
            overrides = [
                "experiment=mnist_r", f"model={model}", "dataset=digits", "trainer=smoke", "device=cpu", "threads=1",
                "model.width=4", "trainer.iterations=4", "trainer.batch_size=8", "trainer.log_every=2",
                "trainer.checkpoint_every=2", "trainer.val_every=2", "wandb.mode=disabled", "figures=null",
                f"output_dir={folder}", f"seed={seed}",
            ]  # fmt: skip
            run(configuration(overrides), overrides)
    return folder


def test_mcnemar_by_hand():
    a = torch.tensor([1, 1, 1, 1, 1, 0, 0, 1], dtype=torch.bool)
    b = torch.tensor([0, 0, 0, 0, 1, 0, 1, 1], dtype=torch.bool)
    only_a, only_b, p = mcnemar(a, b)
    assert (only_a, only_b) == (4, 1)
    assert p == pytest.approx(
        2 * (1 + 5) / 32
    )  # five tosses of a coin, one or none on the rarer side, either way
    assert mcnemar(a, a) == (0, 0, 1.0)


def test_runs_are_sorted_into_configurations(finished):
    found = variants([finished])
    assert [(v.letter, sorted(v.by_seed)) for v in found] == [("A", [0, 1]), ("B", [0, 1])]
    assert [v.results[0].model for v in found] == ["fcn", "st_fcn"] and "mnist_r/fcn-smoke" in found[0].name
    keys = differing(found)
    assert (
        keys["model.name"] == ['"fcn"', '"st_fcn"']
        and "seed" not in keys
        and "trainer.iterations" not in keys
    )
    assert keys["transform.name"] == ["-", '"affine"']
    assert common_metrics(found) == ["test_error", "test_loss"] and main_metric(found) == "test_error"
    with pytest.raises(UserError, match=r"Not every run has test_iou: choose one of test_error, test_loss"):
        main_metric(found, "test_iou")
    with pytest.raises(UserError, match="There are 1 configurations"):
        variants([finished / "mnist_r" / found[0].name.split("/")[1]])


def test_the_interval_is_the_paired_t_tests(finished):
    a, b = variants([finished])
    pair = paired(a, b, "test_loss")
    left, right = (np.array([v.by_seed[seed].metric("test_loss") for seed in (0, 1)]) for v in (a, b))
    expected = stats.ttest_rel(right, left).confidence_interval(0.95)
    assert (pair["low"], pair["high"]) == pytest.approx((expected.low, expected.high))
    assert pair["difference"] == pytest.approx((right - left).mean()) and pair["same_images"]


def test_the_report_counts_images_from_the_stored_predictions(finished):
    found = variants([finished])
    text = report(found, "test_error", {})
    a, b = (v.by_seed[1] for v in found)
    from stn.datasets.mnist import load_digits

    labels = load_digits().test_labels
    right = [torch.load(r.path.parent / "predictions.pt", weights_only=True).long() == labels for r in (a, b)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert f"seed 1: {only_a} images right only in A, {only_b} only in B" in text
    assert a.metric("test_error") == pytest.approx(100 * (1 - right[0].float().mean().item()))
    assert '| model.name | "fcn" | "st_fcn" |' in text and "(n = 2)" in text


def test_the_curves_need_the_logs(finished, tmp_path):
    found = variants([finished])
    path = curves(found, tmp_path / "deep" / "curves.png")
    assert path.stat().st_size > 5000
    (tmp_path / "runs").mkdir()
    for variant in found:  # as they are published: without logs and predictions
        for seed, result in variant.by_seed.items():
            name = f"{result.path.parent.parent.name}-seed_{seed}.json"
            (tmp_path / "runs" / name).write_text(json.dumps(json.loads(result.path.read_text())))
    published = variants([tmp_path / "runs"])
    assert [v.name for v in published] == [v.name for v in found]
    assert curves(published, tmp_path / "none.png") is None
    assert "images right only" not in report(published, "test_error", {})


def test_the_script(finished, tmp_path):
    def script(*arguments):
        command = [
            sys.executable,
            "scripts/compare.py",
            *map(str, arguments),
            "--out",
            str(tmp_path / "a.png"),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = script(finished)
    assert done.returncode == 0 and "B - A: " in done.stdout and (tmp_path / "a.png").exists()
    wrong = script(finished / "nowhere")
    assert (
        wrong.returncode == 2
        and "there is no such file or folder" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )
