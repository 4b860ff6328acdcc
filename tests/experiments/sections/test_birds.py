"""Which part of a bird a window finds, by hand; and runs from drawn birds to the picture and the table."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from experiments.engine.run import load_run, run
from experiments.sections import SECTIONS, birds
from experiments.sections.birds import BirdClassification, corners, inside, region_centres, region_hits
from stn import Attention, Translation
from stn.datasets.bird_lists import PARTS
from stn.models.images import tiling

TINY = [
    "dataset=toy_birds", "trainer=smoke", "backbone=mobilenet_v2", "backbone.weights=none", "dataset.size=64",
    "trainer.iterations=2", "trainer.batch_size=4", "trainer.log_every=2", "trainer.checkpoint_every=2",
    "trainer.val_every=2", "wandb.mode=disabled", "device=cpu", "threads=1",
]  # fmt: skip
WINDOWS = ["model.crop=32", "model.seen=64"]


def test_a_window_in_the_image_by_hand():
    theta = torch.tensor([[0.5, -0.5]])
    expected = torch.tensor([[[0.0, -1], [1, -1], [1, 0], [0, 0]]])
    torch.testing.assert_close(corners(Translation(0.5), theta), expected)
    polygon = expected.expand(5, 4, 2)
    points = torch.tensor([[0.5, -0.5], [-0.1, -0.5], [0.5, 0.1], [0.99, -0.01], [1.5, -0.5]])
    assert inside(polygon, points).tolist() == [True, False, False, True, False]
    assert inside(polygon.flip(1), points).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]  # the other way round
    torch.testing.assert_close(corners(Attention(), torch.tensor([[0.5, 0.5, -0.5]])), expected)


def test_the_middle_of_what_is_visible():
    parts = torch.zeros(2, 15, 3)
    parts[0, PARTS.index("beak")] = torch.tensor([0.2, 0.4, 1])
    parts[0, PARTS.index("nape")] = torch.tensor([0.4, 0.8, 1])
    parts[0, PARTS.index("crown")] = torch.tensor([9.0, 9.0, 0])  # not visible
    parts[0, PARTS.index("tail")] = torch.tensor([-1.0, -1.0, 1])  # not of the head
    centre, visible = region_centres(parts, birds.HEAD)
    assert visible.tolist() == [True, False]
    torch.testing.assert_close(centre[0], torch.tensor([0.3, 0.6]))


class Windows(nn.Module):
    """Two windows wherever they are told to be."""

    def __init__(self):
        super().__init__()
        self.transformers = SimpleNamespace(transform=Translation(0.5), count=2)


def test_what_is_found_by_hand():
    parts = torch.zeros(4, 15, 3)
    for i, (head, body) in enumerate(
        [((0.6, 0.1), (-0.4, 0.2)), ((0.6, 0.9), (0.5, 0)), ((-0.5, 0), None), (None, (0, 0.9))]
    ):
        for name, place in (("beak", head), ("tail", body)):
            if place is not None:
                parts[i, PARTS.index(name)] = torch.tensor([*place, 1.0])
    theta = torch.tensor([[[0.5, 0.0], [-0.5, 0.0]]]).repeat(4, 1, 1)
    theta[1, 0] = torch.tensor([0.5, 0.5])  # the first window of the second bird has gone down, to its head
    numbers = region_hits(Windows(), theta, parts)
    assert numbers["st0_head"] == pytest.approx(200 / 3) and numbers["st1_head"] == pytest.approx(100 / 3)
    assert numbers["st0_body"] == pytest.approx(100 / 3) and numbers["st1_body"] == pytest.approx(100 / 3)
    # where they began, the first was on the left: heads at 0.6 and -0.5, one of which is in each
    assert numbers["start0_head"] == pytest.approx(100 / 3) and numbers["start1_head"] == pytest.approx(
        100 / 3
    )


def test_random_windows_find_what_chance_does():
    parts = torch.zeros(4000, 15, 3)
    parts[:, PARTS.index("beak"), 2] = 1  # all in the middle
    parts[:, PARTS.index("tail")] = torch.tensor([1.0, 1.0, 1.0])  # all in the corner
    numbers = region_hits(Windows(), torch.zeros(4000, 2, 2), parts)
    # centres uniform within +-0.5 each way: the middle is in every window, the corner in none
    assert numbers["random_head"] == 100 and numbers["random_body"] == 0
    parts[:, PARTS.index("beak")] = torch.tensor([0.5, 0.0, 1.0])
    assert region_hits(Windows(), torch.zeros(4000, 2, 2), parts)["random_head"] == pytest.approx(50, abs=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The drawn birds, for all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("experiment", list(birds.EXPERIMENTS))
def test_from_drawn_birds_to_the_picture(configure, experiment, tmp_path, cache):
    windows = [] if experiment == "cub_cnn_224" else WINDOWS
    smoothed = ["task.smoothing=[0.3,0.1]"] if experiment == "cub_2st_448" else []
    overrides = [*TINY, *windows, *smoothed, "dataset.val_size=8", f"dataset.cache_dir={cache}"]
    result = run(configure(f"experiment={experiment}", *overrides, tiny=False), (), SECTIONS)
    metrics = result.metrics
    assert (
        metrics["test_accuracy"] == pytest.approx(100 - metrics["test_error"]) and "val_accuracy" in metrics
    )
    assert ("test_st1_head" in metrics) == bool(windows) and ("test_st3_body" in metrics) == (
        "4st" in experiment
    )
    folder = next((tmp_path / "outputs" / experiment).glob("*/seed_0"))
    assert (folder / "crops.png").stat().st_size > 10000
    assert "cache_dir" not in json.dumps(result.config) and "data_dir" not in json.dumps(result.config)
    if experiment == "cub_2st_224":
        data, model, _ = load_run(folder, {"cache_dir": str(cache)})
        with torch.inference_mode():
            again, _ = BirdClassification().evaluate(model, data.test.batches(50))
        assert again["accuracy"] == metrics["test_accuracy"]
        assert again["st0_head"] == metrics["test_st0_head"]


def test_windows_of_a_control_stay_where_they_start(configure, tmp_path, cache):
    experiment = "cub_2fixed_448"
    overrides = [f"experiment={experiment}", *TINY, *WINDOWS, f"dataset.cache_dir={cache}", "figures=false"]
    run(configure(*overrides, tiny=False))
    folder = next((tmp_path / "outputs" / experiment).glob("*/seed_0"))
    data, model, _ = load_run(folder, {"cache_dir": str(cache)})
    images, *_ = next(iter(data.test.batches(4)))
    count = model.transformers.count
    with torch.inference_mode():
        theta = model(images)[1]["theta"]
    assert torch.equal(theta, tiling(model.transformers.transform, count).expand(len(images), -1, -1))


def test_the_papers_numbers_are_in_the_table():
    rows = [(experiment, None) for experiment in birds.EXPERIMENTS]
    assert [birds.PAPER[row]["accuracy"] for row in rows] == [82.3, 83.1, 83.9, 84.1]
    assert list(birds.PAPER) == rows  # none for the controls
    assert not birds.BIRDS.lower_is_better
