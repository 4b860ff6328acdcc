"""The networks that come with the repository are those of the published runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from experiments.engine import rundir
from experiments.engine.build import build
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.report import details
from stn.datasets.distorted import CHUNK, DistortedDigits
from stn.models.weights import FOLDER, load_weights, pretrained, pretrained_names

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def finished(configure):
    cfg = configure("experiment=mnist_r", "model=st_cnn", "transform=tps")
    run(cfg)
    return rundir.run_dir(cfg)


def test_a_published_run_becomes_a_network_of_the_same_error(finished, script, tmp_path):
    published = tmp_path / "runs" / "mnist_r" / f"{finished.parent.name}-{finished.name}.json"
    published.parent.mkdir(parents=True)
    words = [str(finished), "--weights", str(tmp_path / "weights"), "--published", str(tmp_path / "runs")]
    code, _, said = script("publish_weights.py", *words)
    assert code == 2 and "is not published as" in said and not (tmp_path / "weights").exists()

    shutil.copyfile(finished / "result.json", published)
    details.keep(finished, published)
    code, said, _ = script("publish_weights.py", *words)
    assert code == 0, said
    error = Result.read(published).metrics["test_error"]
    assert f"published {error:.2f} %, 0 predictions differ." in said
    (name,) = pretrained_names(tmp_path / "weights")
    assert name.startswith("mnist_r/st_cnn-tps")
    assert f"| {error:.2f} | {error:.2f} |" in (tmp_path / "weights" / "README.md").read_text()


def test_another_error_in_half_precision_is_refused(finished, script, tmp_path):
    stored = json.loads((finished / "result.json").read_text())
    stored["metrics"]["test_error"] += 0.5
    (finished / "result.json").write_text(json.dumps(stored))
    published = tmp_path / "runs" / "mnist_r" / f"{finished.parent.name}-{finished.name}.json"
    published.parent.mkdir(parents=True)
    shutil.copyfile(finished / "result.json", published)
    words = [str(finished), "--weights", str(tmp_path / "weights"), "--published", str(tmp_path / "runs")]
    code, _, said = script("publish_weights.py", *words)
    assert code == 2 and "Nothing is written." in said
    assert list((tmp_path / "weights").rglob("*.*")) == []


def test_the_network_of_another_seed_is_not_exchanged(configure, script, tmp_path):
    codes, said = [], ""
    for seed in (1, 0, 1):
        cfg = configure("experiment=mnist_r", "model=fcn", f"seed={seed}")
        run(cfg)
        folder = rundir.run_dir(cfg)
        published = tmp_path / "runs" / "mnist_r" / f"{folder.parent.name}-{folder.name}.json"
        published.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "result.json", published)
        words = ["--weights", str(tmp_path / "weights"), "--published", str(tmp_path / "runs")]
        code, _, error = script("publish_weights.py", str(folder), *words)
        codes.append(code)
        said += error
    assert codes == [0, 2, 0] and "and stays" in said
    (name,) = pretrained_names(tmp_path / "weights")
    assert load_weights(tmp_path / "weights" / f"{name}.safetensors")[0].run.endswith("seed_1")


@pytest.mark.real_data
@pytest.mark.parametrize("name", pretrained_names())
def test_each_network_predicts_what_its_published_run_predicted(name, real):
    card = load_weights(FOLDER / f"{name}.safetensors")[0]
    published = ROOT / "results" / "runs" / f"{card.run}.json"
    result = Result.read(published)
    assert card.published_error == result.metrics["test_error"]
    assert card.test_fingerprint == result.test_fingerprint
    assert abs(card.test_error - card.published_error) <= 0.02
    distort = build(OmegaConf.create(result.config["dataset"]["distort"]))
    # The first chunk of the test set: its distortions do not depend on the others.
    first = replace(real, test_images=real.test_images[:CHUNK], test_labels=real.test_labels[:CHUNK])
    test = DistortedDigits(first, distort).test
    with torch.inference_mode():
        found = torch.cat([pretrained(name)(images)[0].argmax(1) for images, _ in test.batches(500)])
    differ = found.numpy() != details.predictions(published)[:CHUNK]
    assert differ.sum() <= 1  # rounding may decide one
