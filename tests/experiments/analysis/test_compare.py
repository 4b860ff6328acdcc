"""Runs side by side: intervals and tests against scipy and by hand, and the whole from runs on the disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.analysis.compare import report
from experiments.analysis.curves import _looks, curves
from experiments.analysis.significance import mcnemar, p_text, paired
from experiments.analysis.variants import all_metrics, differing, main_metric, names, variants
from experiments.engine.build import UserError
from experiments.engine.run import run
from experiments.report import details, pictures

ROOT = Path(__file__).resolve().parents[3]


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
                "trainer.checkpoint_every=2", "trainer.val_every=2", "wandb.mode=disabled", "figures=false",
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
    every = torch.ones(2000, dtype=torch.bool)
    assert mcnemar(every, ~every) == (2000, 0, 0.0)  # 2 ** -1999 is no float
    assert [p_text(value) for value in (p, 0.0)] == ["p = 0.38", "p < 1e-300"]


def test_runs_are_sorted_into_configurations(finished):
    found = variants([finished])
    assert [(v.letter, sorted(v.by_seed)) for v in found] == [("A", [0, 1]), ("B", [0, 1])]
    assert [v.results[0].model for v in found] == ["fcn", "st_fcn"] and "mnist_r/fcn-smoke" in found[0].name
    keys = differing(found)
    assert keys["model.name"] == ["fcn", "st_fcn"] and keys["model.transform.name"] == ["-", "affine"]
    assert not {"seed", "trainer.iterations"} & keys.keys()
    assert not {"model._target_", "transform.name"} & keys.keys()  # told by the names already
    assert all_metrics(found) == ["test_error", "test_loss"] and main_metric(found) == "test_error"
    with pytest.raises(UserError, match=r"Not every run has test_iou: choose one of test_error, test_loss"):
        main_metric(found, "test_iou")


def test_one_configuration_alone_and_none(finished, tmp_path):
    (one,) = variants([finished / "mnist_r" / variants([finished])[0].name.split("/")[1]])
    text = report([one], "test_error", {})
    assert "| test_error |" in text and "Differences" not in text and "| key |" not in text
    with pytest.raises(UserError, match="There is no finished run in"):
        variants([tmp_path])


def published(found, folder, change=lambda content, number: None, count=1):
    """Results as in results/runs/: a copy of the first run of each configuration, or several, changed."""
    runs = folder / "results" / "runs" / "mnist_r"
    runs.mkdir(parents=True)
    for number, variant in enumerate([v for v in found for _ in range(count)]):
        content = json.loads(variant.results[0].path.read_text())
        change(content, number)
        (runs / f"run{number:02d}-seed_0.json").write_text(json.dumps(content))
    return folder / "results" / "runs"


def test_more_configurations_than_letters(finished, tmp_path):
    def change(content, number):
        content["config"]["optimizer"]["lr"] = number
        content["config_hash"] = str(number)

    many = variants([published(variants([finished]), tmp_path, change, count=15)])
    assert [v.letter for v in many[:2] + many[25:28]] == ["A", "B", "Z", "AA", "AB"]
    text = report(many, "test_error", {})
    assert text.count("\n- ") == 29 and "All against A; --against names another." in text
    assert "|  | test_error | test_loss |" in text  # a row a configuration: thirty columns are none to read
    assert "\n- C - B: " in report(many, "test_error", {}, "B")
    with pytest.raises(UserError, match="There is no configuration AZ: they are A to AD"):
        report(many, "test_error", {}, "AZ")


def test_runs_that_measure_different_things(finished, tmp_path):
    def change(content, number):
        if number:
            content["metrics"] = {"test_iou": 0.5, "test_error": 2.0}
            content["test_fingerprint"] = "another"

    found = variants([published(variants([finished]), tmp_path, change)])
    text = report(found, main_metric(found), {})
    assert "| test_iou | - | 0.50 |" in text
    assert "Left out, since not tested on the same images: B - A." in text
    with pytest.raises(UserError, match="Not every run has test_iou: choose one of test_error"):
        main_metric(found, "test_iou")
    found[1].results[0].metrics.pop("test_error")
    with pytest.raises(UserError, match="no test metric in common"):
        main_metric(found)


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
    from stn.datasets.digits import load_digits

    labels = load_digits().test_labels
    right = [torch.load(r.path.parent / "predictions.pt", weights_only=True).long() == labels for r in (a, b)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert f"seed 1: {only_a} images right only in A, {only_b} only in B" in text
    assert a.metric("test_error") == pytest.approx(100 * (1 - right[0].float().mean().item()))
    assert "| model.name | fcn | st_fcn |" in text and "(n = 2)" in text


def test_published_runs_keep_what_they_are_compared_by(finished, tmp_path):
    found = variants([finished])
    for variant in found:
        for seed, result in variant.by_seed.items():
            path = tmp_path / "runs" / "mnist_r" / f"{result.path.parent.parent.name}-seed_{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(result.path.read_text())
    bare = variants([tmp_path / "runs"])
    assert [v.name for v in bare] == [v.name for v in found]
    assert curves(bare, tmp_path / "none.png") is None
    text = report(bare, "test_error", {})
    assert "only in B" not in text
    assert (
        "No McNemar's test where no predicted classes are kept: A seed 0, A seed 1, B seed 0, B seed 1."
        in text
    )

    for variant, kept in zip(found, bare, strict=True):
        for seed, result in variant.by_seed.items():
            file = details.keep(result.path.parent, kept.by_seed[seed].path)
            assert file.parent == tmp_path / "details" / "mnist_r" and file.stat().st_size < 4000
            curve = details.curves(kept.by_seed[seed].path)
            assert curve.keys() == {"train/loss", "train/error"}
            assert curve["train/loss"] == pytest.approx(details.curves(result.path)["train/loss"])
    assert report(bare, "test_error", {}) == report(found, "test_error", {})
    assert curves(bare, tmp_path / "all.png").stat().st_size > 5000


def test_a_long_curve_is_thinned_out_and_keeps_its_end(tmp_path):
    lines = [json.dumps({"step": step, "train/error": 1.0 / step, "lr": 1.0}) for step in range(1, 1002)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    details.keep(tmp_path, tmp_path / "runs" / "e" / "a.json")
    kept = details.curves(tmp_path / "runs" / "e" / "a.json")
    assert kept.keys() == {"train/error"} and len(kept["train/error"]) <= details.POINTS
    assert list(kept["train/error"].items())[-1] == (1001, pytest.approx(1 / 1001))
    assert details.predictions(tmp_path / "runs" / "e" / "a.json") is None


def test_without_the_data_all_but_mcnemar(finished, monkeypatch):
    def missing(*_):
        raise FileNotFoundError("The MNIST files are not in data/mnist.")

    monkeypatch.setattr("experiments.analysis.significance.truth", missing)
    text = report(variants([finished]), "test_error", {})
    assert "needs the labels of the test images: The MNIST files are not in" in text and "(n = 2)" in text


def test_runs_whose_right_images_are_stored_are_tested_although_others_cannot_be(
    finished, tmp_path, monkeypatch
):
    def change(content, number):
        content["config"]["optimizer"]["lr"] = number
        content["config_hash"] = str(number)

    folder = published(variants([finished]), tmp_path, change, count=2)
    for number, variant in enumerate(found := variants([folder])):
        path = variant.results[0].path
        details.keep(variants([finished])[number % 2].results[0].path.parent, path)
        if number:
            details.keep_right(path, np.arange(100) >= number)

    asked = []

    def missing(result, _):
        asked.append(result.test_fingerprint)
        raise FileNotFoundError("The MNIST files are not in data/mnist.")

    monkeypatch.setattr("experiments.analysis.significance.truth", missing)
    text = report(found, "test_error", {})
    assert text.count("needs the labels of the test images: The MNIST files are not in") == 1
    assert text.count("images right only in") == 3  # the pairs of B, C and D; none of those with A
    assert len(asked) == 1  # once for a test set, not for each pair


def test_runs_are_given_from_within_their_folder(finished, tmp_path, monkeypatch):
    folder = published(variants([finished]), tmp_path)
    for variant in variants([folder]):
        details.keep_right(variant.results[0].path, np.ones(9, dtype=bool))
    for place, given in ((folder, "mnist_r"), (folder / "mnist_r", "run00-seed_0.json")):
        monkeypatch.chdir(place)
        path = variants([given])[0].results[0].path
        assert not path.is_absolute() and details.right(path).tolist() == [True] * 9
        assert details.figures_folder(path) == tmp_path / "results" / "figures" / "mnist_r"


def test_keys_with_the_same_values_are_all_named(finished, tmp_path):
    def change(content, number):
        content["config"]["optimizer"] |= {"lr": number, "weight_decay": number, "momentum": 1 - number}
        content["config_hash"] = str(number)

    only_fcn = variants([finished])[:1]
    keys = differing(variants([published(only_fcn, tmp_path, change, count=2)]))
    assert keys["optimizer.lr, optimizer.weight_decay"] == ["0", "1"] and keys["optimizer.momentum"] == [
        "1",
        "0",
    ]


def test_the_curves(finished, tmp_path, monkeypatch):
    assert curves(variants([finished]), tmp_path / "deep" / "curves.png").stat().st_size > 5000
    monkeypatch.setattr(pictures, "save", lambda figure, path, **_: figure)
    fast = sorted((ROOT / "results" / "runs" / "mnist_rts").glob("*-fast-*"))
    figure = curves(variants(fast), tmp_path / "curves.png")
    assert "rotated, scaled and translated digits (RTS)" in " ".join(figure._suptitle.get_text().split())
    labels = [text.get_text().split(", mean")[0].split(": ")[1] for text in figure.legends[0].get_texts()]
    looks = dict(zip(labels, figure.axes[0].lines, strict=True))
    assert "ST-CNN (affine)" in looks and len(looks) == 8
    for one, line in looks.items():
        for other, another in looks.items():
            network, transform = one.partition(" (")[::2]
            also, too = other.partition(" (")[::2]
            assert (line.get_color() == another.get_color()) is (network == also)
            assert (line.get_linestyle() == another.get_linestyle()) is (transform == too)


def test_configurations_of_the_same_words_are_told_apart():
    found = variants([ROOT / "results" / "runs" / name for name in ("mnist_r", "colocalisation")])
    told = names(found)
    assert "ST-CNN (affine) on rotated digits (R)" in told and len(set(told)) == len(told)
    alike = [name for name in told if name.startswith("One spatial transformer")]
    assert len(alike) == 20 and all("dataset.digit=" in name and "fast" not in name for name in alike)
    looks = [
        tuple(look.values()) for look in _looks([one for one in found if one.results[0].model == "localiser"])
    ]
    assert len(set(looks)) == len(looks[:12]) == 12  # as many as there are


def test_the_script(finished, script, tmp_path):
    status, said, _ = script("compare.py", str(finished), "--out", str(tmp_path / "a.png"))
    assert status == 0 and "B - A: " in said and (tmp_path / "a.png").exists()
    status, _, said = script("compare.py", str(finished / "nowhere"), "--out", str(tmp_path / "a.png"))
    assert status == 2 and "there is no such file or folder" in said and "Traceback" not in said
