"""The loss's landscape over theta: a smooth one, where every step says the same, and one with ripples."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.analysis.landscape import landscape, landscape_of_run, markdown, picture
from experiments.engine.build import UserError
from experiments.engine.run import run
from stn import SpatialTransformer, Translation

PLACE = torch.tensor([0.3, -0.2])


class Curve(nn.Module):
    """Says 0 the surer, the nearer the window is to `PLACE`; with ripples on the way."""

    def __init__(self, ripples: float) -> None:
        super().__init__()
        self.ripples = ripples
        trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        self.st = SpatialTransformer(trunk, Translation(0.5))

    def forward(self, image):
        _, theta = self.st(image)
        first = -((theta - PLACE) ** 2).sum(1) + self.ripples * torch.sin(500 * theta).sum(1)
        return torch.stack([first, torch.zeros_like(first)], 1), {"theta": theta}


def of(ripples: float) -> dict:
    torch.manual_seed(0)
    batches = [(torch.rand(50, 1, 8, 8), torch.zeros(50, dtype=torch.long)) for _ in range(2)]
    return landscape(Curve(ripples), batches, spread=0.3, towards=lambda batch, theta: PLACE - theta)


def test_where_the_loss_is_smooth_every_step_says_what_the_gradient_says():
    found = of(0.0)
    assert found["images"] == 100
    assert found["gradient"]["cosine_to_target"] == pytest.approx(1, abs=1e-5)
    for row in found["steps"]:
        assert row["cosine"] > 0.99 and row["cosine_to_target"] > 0.99
    assert found["steps"][0]["norm"] == pytest.approx(found["gradient"]["norm"], rel=0.01)


def test_ripples_turn_the_gradient_and_not_the_large_steps():
    found, smooth = of(0.1), of(0.0)
    small, large = found["steps"][0], found["steps"][-1]
    assert small["step"] == 0.003 and large["step"] == 0.4
    assert small["cosine"] > 0.9  # the slope over a small step is the gradient, by another way
    # the ripples' slope is 50, the valley's is 0.8 at most, and half of each reaches the loss
    assert 10 < found["gradient"]["norm"] < 50 and large["norm"] < 1
    assert abs(found["gradient"]["cosine_to_target"]) < 0.25
    assert large["cosine_to_target"] > 0.8
    assert large["norm"] == pytest.approx(smooth["steps"][-1]["norm"], rel=0.5)


def test_from_a_run_to_the_files(configure, tmp_path):
    run(configure("experiment=mnist_rts", "dataset=digits"))
    folder = next((tmp_path / "outputs" / "mnist_rts").glob("*/seed_0"))
    found = [landscape_of_run(folder, {}, images=5)]
    assert found[0]["images"] == 5 and "cosine_to_target" not in found[0]["gradient"]
    assert json.loads(json.dumps(found)) == found
    assert "mnist_rts" in markdown(found)
    assert picture(found, tmp_path / "a" / "landscape.png").stat().st_size > 5000


def test_a_run_without_classes_has_none(monkeypatch):
    data = SimpleNamespace(num_classes=None)
    monkeypatch.setattr("experiments.analysis.landscape.load_run", lambda *_: (data, nn.Linear(2, 2), {}))
    with pytest.raises(UserError, match="is no classification"):
        landscape_of_run(Path("a localiser"), {})


def test_a_network_without_transformers_has_none(configure, tmp_path):
    with pytest.raises(UserError, match="this network has 0"):
        landscape(nn.Linear(2, 2), [])
    birds = [
        "experiment=cub_cnn_224", "dataset=toy_birds", "trainer=smoke", "backbone=mobilenet_v2",
        "backbone.weights=none",
        "dataset.size=64", "trainer.iterations=2", "trainer.log_every=2", "trainer.checkpoint_every=2",
        "trainer.val_every=2", "wandb.mode=disabled", "device=cpu", "threads=1", "figures=false",
    ]  # fmt: skip
    run(configure(*birds, tiny=False), birds)
    folder = next((tmp_path / "outputs" / "cub_cnn_224").glob("*/seed_0"))
    where = {"cache_dir": str(tmp_path / "outputs" / "cache")}
    with pytest.raises(UserError, match="this network has 0"):
        landscape_of_run(folder, where, images=2)
    with pytest.raises(UserError, match="--images 0 is not valid"):
        landscape_of_run(folder, where, images=0)
