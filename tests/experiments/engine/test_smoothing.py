"""The smoothed gradient of theta, against quadrature; and what else it leaves as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.smoothing import SmoothedClassification
from experiments.engine.task import Classification
from experiments.sections.birds import BirdClassification
from stn import Translation
from stn.models.backbones import Backbone
from stn.models.images import ImageSTCNN


class Curve(nn.Module):
    """Two classes; theta moves the first one's logit along a curve, on which lie ripples."""

    def __init__(self, place):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place))
        self.parallel = self
        self.count, self.transform = 1, Translation()

    def read(self, theta):
        x, y = theta[:, 0].unbind(1)
        first = 3 * x + y**2 + 0.5 * torch.sin(400 * x)
        return torch.stack([first, torch.zeros_like(first)], 1)

    def forward(self, images, noise):
        theta = self.place.expand(len(images), 1, 2)
        logits = self.read(theta.detach() + noise)
        return logits, {"theta": theta, "mirrored": self.read(theta.detach() - noise).detach()}


def smoothed_slope(place, sigma):
    """d/dtheta of E[loss(theta + n)], by Gauss-Hermite quadrature of E[loss n] / sigma^2, without the ripples' sake:
    enough nodes to resolve them would be thousands, so the x-integral is a fine sum."""
    x = np.linspace(-6, 6, 40001) * sigma
    weight = np.exp(-0.5 * (x / sigma) ** 2)
    weight /= weight.sum()
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    slope = np.zeros(2)
    for node, share in zip(nodes * sigma, weights, strict=True):
        logit = 3 * (place[0] + x) + (place[1] + node) ** 2 + 0.5 * np.sin(400 * (place[0] + x))
        loss = np.logaddexp(0, -logit)
        slope += share * np.array([(weight * loss * x).sum(), (weight * loss * node).sum()]) / sigma**2
    return slope


def test_theta_gets_the_smoothed_losss_gradient():
    place, sigma = (0.1, -0.3), 0.2
    torch.manual_seed(0)
    model, task = Curve(place), SmoothedClassification([sigma, sigma])
    count = 400_000
    loss, sums, aux = task.loss(model, (torch.zeros(count, 1), torch.zeros(count, dtype=torch.long)))
    loss.backward()
    expected = smoothed_slope(place, sigma)
    np.testing.assert_allclose(model.place.grad.numpy(), expected, atol=0.01)
    assert (
        abs(expected[0] + 1.2) < 0.3
    )  # the curve's slope, 3, times one minus the class's probability: no ripple's
    rough = torch.tensor([[list(place)]], requires_grad=True)
    F.cross_entropy(model.read(rough), torch.zeros(1, dtype=torch.long)).backward()
    assert rough.grad.abs().max() > 10  # what the sampler would have handed back
    assert set(aux) == {"theta"}
    assert float(sums["images"]) == count


def network(**options):
    torch.manual_seed(0)
    backbone = Backbone("mobilenet_v2", weights="none")
    return ImageSTCNN(
        (3, 64, 64), num_classes=5, backbone=backbone, transform=Translation(0.5), num_transformers=2, crop=32,
        seen=64, **options,
    )  # fmt: skip


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 64, 64, generator=generator), torch.tensor([0, 1, 2, 3])


def test_the_crops_are_those_at_theta_plus_noise_and_the_mirrored_ones_at_minus():
    model = network(
        dropout=0.0
    ).train()  # over the batch, features of an untrained backbone are not all near 0
    images, _ = batch()
    noise = 0.2 * torch.randn(2, 2).expand(4, 2, 2)
    with torch.no_grad():
        logits, aux = model(images, noise)
        bias = model.parallel.head.bias
        bias += noise[0].flatten()
        ahead, moved = model(images)
        bias -= 2 * noise[0].flatten()
        behind, _ = model(images)
    torch.testing.assert_close(aux["theta"] + noise, moved["theta"])
    torch.testing.assert_close(aux["warped"], moved["warped"])
    torch.testing.assert_close(logits, ahead)
    torch.testing.assert_close(aux["mirrored"], behind)
    assert (logits - aux["mirrored"]).abs().max() > 0.1


def test_both_looks_lose_the_same_units():
    model = network(dropout=0.9).train()
    images, _ = batch()
    logits, aux = model(images, torch.zeros(4, 2, 2))
    torch.testing.assert_close(logits, aux["mirrored"])
    assert not torch.allclose(logits, model(images, torch.zeros(4, 2, 2))[0])


def test_theta_learns_from_the_two_looks_alone_and_the_rest_as_ever():
    model, task = network(dropout=0.0).train(), SmoothedClassification([0.3, 0.1])
    torch.manual_seed(5)
    task.loss(model, batch())[0].backward()
    assert model.parallel.head.weight.grad.abs().sum() > 0
    given = model.classifier.weight.grad.clone(), model.parallel.head.bias.grad.clone()
    model.zero_grad()
    torch.manual_seed(5)
    noise = 0.3 * torch.randn(4, 2, 2)
    logits, aux = model(batch()[0], noise)
    F.cross_entropy(logits, batch()[1]).backward()
    torch.testing.assert_close(model.classifier.weight.grad, given[0])
    assert model.parallel.head.weight.grad is None  # nothing comes through the crops
    one, two = (F.cross_entropy(x.detach(), batch()[1], reduction="none") for x in (logits, aux["mirrored"]))
    by_hand = ((one - two) / (2 * 0.09))[:, None, None] * noise / 4
    torch.testing.assert_close(given[1], by_hand.sum(0).flatten())


def test_without_smoothing_it_is_classification():
    model = network(dropout=0.0).train()
    plain = Classification().loss(model, batch())
    ours = SmoothedClassification().loss(model, batch())
    torch.testing.assert_close(plain[0], ours[0])
    ours[0].backward()
    assert model.parallel.head.weight.grad.abs().sum() > 0


def test_sigma_shrinks_as_training_goes():
    task = SmoothedClassification([0.3, 0.1])
    assert task.sigma == 0.3
    task.at(nn.Identity(), 0.5)
    assert task.sigma == pytest.approx(0.2)


@pytest.mark.parametrize("smoothing", [[0.3], [0.3, 0.0], [0.1, 0.2, 0.3]])
def test_what_cannot_be_is_refused(smoothing):
    with pytest.raises(UserError, match=r"task.smoothing=.* is two numbers above 0"):
        SmoothedClassification(smoothing)


def test_a_network_without_transformers_has_nothing_to_smooth():
    with pytest.raises(UserError, match=r"this network has none: task\.smoothing=null"):
        SmoothedClassification([0.3, 0.1]).loss(nn.Linear(2, 2), batch())


def test_the_papers_schedule_has_the_samplers_own_gradient():
    for trainer, smoothing, norm in (("paper_birds", None, "batch"), ("fast", [0.3, 0.15], "frozen")):
        cfg = configuration(["experiment=cub_2st_448", f"trainer={trainer}"])
        assert cfg.task.smoothing == smoothing and cfg.backbone.norm == norm
    assert BirdClassification().smoothing is None
