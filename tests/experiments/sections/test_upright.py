"""The angle that a transformer leaves: its sign by torchvision, its statistics by scipy, the run and the tables."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

import stn
from experiments.engine.configuration import configuration
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.report import details, render
from experiments.sections.upright import (
    CLAIM,
    CLASSES,
    ROWS,
    UPRIGHT,
    WORDS,
    circular,
    concentration,
    deviation,
    overrides,
    place,
    poses,
    residuals,
    row_of_range,
)
from stn.datasets.distortions import rotate

HALF = torch.zeros(1, 1, 28, 28)
HALF[..., 5:14, 11:17] = 1  # a bar from the centre upwards


def window(degrees):
    """theta of a window turned clockwise as displayed (y down): its x axis is (cos, sin), its y axis (-sin, cos)."""
    radians = [math.radians(one) for one in degrees]
    return torch.tensor([[math.cos(a), -math.sin(a), 0, math.sin(a), math.cos(a), 0] for a in radians])


class Given(nn.Module):
    """A network with one transformer whose thetas are given."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta
        self.transformers = nn.Module()
        self.transformers.transform = stn.Affine()

    def forward(self, images):
        warped = stn.sample(images, stn.Affine().grid(self.theta, (28, 28)))
        return torch.zeros(len(images), 10), {"theta": self.theta[:, None], "warped": warped[:, None]}


@pytest.mark.parametrize("clockwise", [35.0, -120.0])
def test_a_window_that_undoes_a_rotation_leaves_nothing(clockwise):
    turned = torchvision_rotate(
        HALF, -clockwise, InterpolationMode.BILINEAR
    )  # torchvision's is anticlockwise
    assert (turned - HALF).abs().mean() > 0.05
    angle, label = torch.tensor([clockwise]), torch.tensor([3])
    model = Given(window([clockwise]))
    residual, labels, means = residuals(model, [(turned, label, angle)])
    assert residual.item() == pytest.approx(0, abs=1e-3) and labels.item() == 3
    assert (means[0, 3] - HALF[0, 0]).abs().mean() < 0.02  # upright again, seen in the pixels
    assert not means[0, :3].any() and not means[0, 4:].any()
    for taken_out in (0.0, 30.0, -170.0):
        left = residuals(Given(window([taken_out])), [(turned, label, angle)])[0].item()
        assert left == pytest.approx((clockwise - taken_out + 180) % 360 - 180, abs=1e-3)


def test_the_angle_put_in_is_the_angle_in_the_pixels():
    """An identity transformer leaves what the distortion says that it has put in, by torchvision's rotation too."""
    turned, angle = rotate(
        HALF, torch.Generator().manual_seed(0), middle=100, max_angle=20, return_angle=True
    )
    assert 80 <= angle.item() <= 120
    expected = torchvision_rotate(HALF, -angle.item(), InterpolationMode.BILINEAR)
    assert (turned - expected).abs().mean() < 0.01
    residual, _, _ = residuals(Given(window([0.0])), [(turned, torch.tensor([1]), angle)])
    assert residual.item() == pytest.approx(angle.item(), abs=1e-3)


def test_circular_mean_and_concentration_are_scipys():
    for loc, kappa in ((-170.0, 4.0), (20.0, 0.5)):
        sample = np.degrees(stats.vonmises(kappa, np.radians(loc)).rvs(500, random_state=1))
        mean, length = circular(torch.from_numpy(sample))
        assert mean == pytest.approx(stats.circmean(sample, 180, -180))
        assert length == pytest.approx(1 - stats.circvar(sample, 180, -180))


def test_a_pose_of_each_class_is_told_from_no_pose():
    """Two classes, opposite poses: nothing over all, everything within a class."""
    labels = torch.tensor([0, 0, 7, 7])
    found = poses(torch.tensor([85.0, 95.0, -85.0, -95.0]), labels)
    assert found["pose_concentration"] == pytest.approx(0, abs=1e-6)
    assert found["pose_concentration_within"] == pytest.approx(math.cos(math.radians(5)))
    assert found["class0_pose_mean_degrees"] == pytest.approx(90)
    assert found["class7_pose_mean_degrees"] == pytest.approx(-90)
    assert "class1_pose_mean_degrees" not in found


def test_each_row_trains_its_range_and_the_second_is_the_experiments():
    assert len(ROWS) == 6 and overrides(row_of_range(0, 90), "error") == ["experiment=upright"]
    for row in ROWS:
        distort = configuration(overrides(row, "error")).dataset.distort
        assert row_of_range(distort.middle, distort.max_angle) == row


def test_runs_measure_the_pose_keep_the_angles_and_stand_in_both_tables(configure):
    cfg = configure("experiment=upright", "dataset.distort.middle=90")
    results = [run(cfg)]
    metrics = results[0].metrics
    kept = details.measured(results[0].path)
    assert kept["residual"].shape == (360, 1) and kept["residual"].dtype == np.float16
    angles = kept["residual"][:, 0].astype(float)
    assert metrics["test_pose_mean_degrees"] == pytest.approx(stats.circmean(angles, 180, -180), abs=0.1)
    assert kept["class_means"].shape == (1, 10, 28, 28) and kept["class_means"].max() > 30
    published = results[0].path.parents[3] / "results" / "runs" / "upright" / "a-seed_0.json"
    results[0].write(published)
    details.keep(results[0].path.parent, published)
    assert {name: array.tolist() for name, array in details.measured(published).items()} == {
        name: array.tolist() for name, array in kept.items()
    }
    assert set(details.curves(published)) == set(details.curves(results[0].path)) and details.curves(
        published
    )
    assert place(results[0]) == (("0 to 180", None), "error")
    # Two more seeds, one on the other side of 180 degrees: the mean is circular.
    for seed, mean in ((0, 170.0), (1, -170.0)):
        content = results[0].to_dict() | {"seed": seed, "config": results[0].config | {"seed": seed}}
        content["metrics"] = metrics | {"test_pose_mean_degrees": mean, "test_class3_pose_mean_degrees": mean}
        results.append(Result.from_dict(content, results[0].path.with_name(f"{seed}.json")))
    text = render([UPRIGHT, CLASSES], results[1:], include_smoke=True)
    first, second = (part.splitlines() for part in text.split("### ")[1:])
    line = next(line for line in first if line.startswith("| 0 to 180"))
    assert line.split("|")[3].strip() == "180 ± 14 (2)†"
    assert f"{metrics['test_pose_concentration']:.2f} ± 0.00" in line
    assert next(line for line in second if line.startswith("| 0 to 180")).split("|")[5].strip()[:4] == "180 "
    assert any(line.startswith("- 2 runs, in fp32; ") for line in first)


def test_the_claim_asks_how_far_the_mean_pose_is_from_the_middle_and_whether_digits_share_it():
    def finished(middle, max_angle, mean):
        metrics = {"test_pose_mean_degrees": mean, "test_pose_concentration": 0.25}
        distort = {"middle": middle, "max_angle": max_angle}
        config = {"dataset": {"distort": distort}}
        return SimpleNamespace(experiment="upright", metrics=metrics, config=config, metric=metrics.get)

    assert deviation(-90, 90).value(finished(-90, 90, -83.0)) == 7
    assert deviation(0, 135).value(finished(0, 135, -175.0)) == -175
    assert deviation(90, 90).value(finished(90, 90, -175.0)) == 95  # across 180 degrees
    assert deviation(90, 90).value(finished(0, 90, 90.0)) is None
    assert concentration(0, 180).value(finished(0, 180, 3.0)) == 0.25
    assert concentration(0, 180).value(finished(0, 90, 3.0)) is None
    assert [(part.above, part.below) for part in CLAIM.parts] == [
        *[(-15.0, 15.0), (0.5, math.inf)] * 5,
        (-math.inf, 0.5),
    ]
    # Two poses at opposite sides: the mean lies in the middle, where no digit is.
    near, shared = [part for part in CLAIM.parts if "135" in part.runs.name]
    two_poses = finished(0, 135, 1.0)
    assert near.runs.value(two_poses) < near.below and shared.runs.value(two_poses) < shared.above


def test_titles_tell_ranges_apart():
    run = {"experiment": "upright", "dataset": "mnist", "model": "st_cnn", "transform": "affine"}
    for distort, told in (
        ({"max_angle": 45}, "−45° to 45°"),
        ({"middle": -90, "max_angle": 90}, "−180° to 0°"),
    ):
        config = {"dataset": {"distort": distort}}
        assert WORDS.subject({**run, "config": config}).data == f"rotated digits ({told})"


def test_several_transformers_have_numbers_of_their_own_and_none_has_none(configure):
    two = run(configure("experiment=upright", "model=2st_fcn", "trainer.iterations=2"))
    assert {"test_st0_pose_mean_degrees", "test_st1_class9_pose_concentration"} <= set(two.metrics)
    none = run(configure("experiment=upright", "model=cnn", "trainer.iterations=2"))
    assert set(none.metrics) == {"test_error", "test_loss"} and place(none) is place(two) is None
    assert not (none.path.parent / "details.pt").exists()
