"""The smoothed gradient of theta, against quadrature; and what else it leaves as it was."""

from types import SimpleNamespace

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
from stn import Affine, Translation
from stn.models.backbones import Backbone
from stn.models.images import ImageSTCNN
from stn.models.mnist import st_fcn


class Curve(nn.Module):
    """Two classes; theta moves the first one's logit along a curve, on which lie ripples."""

    def __init__(self, place):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place))
        self.transformers = SimpleNamespace(count=1, transform=Translation())

    def locate(self, images):
        return self.place.expand(len(images), 1, 2)

    def describe(self, images, theta):
        x, y = theta[:, 0].unbind(1)
        first = 3 * x + y**2 + 0.5 * torch.sin(400 * x)
        return torch.stack([first, torch.zeros_like(first)], 1), theta

    def draw_dropout(self, features):
        return torch.ones_like(features)

    def classify(self, features, kept):
        return features * kept


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
    F.cross_entropy(model.describe(None, rough)[0], torch.zeros(1, dtype=torch.long)).backward()
    assert rough.grad.abs().max() > 10  # what the sampler would have handed back
    assert set(aux) == {"theta", "warped"}
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


class Looks:
    """What a network is asked for: theta of every look and whether it had a gradient, and the units that were kept."""

    def __init__(self, model):
        self.thetas, self.kept, self.logits = [], [], []
        describe, classify = model.describe, model.classify

        def noted_describe(image, theta):
            self.thetas.append((theta, torch.is_grad_enabled()))
            return describe(image, theta)

        def noted_classify(features, kept):
            self.kept.append(kept)
            self.logits.append(classify(features, kept))
            return self.logits[-1]

        model.describe, model.classify = noted_describe, noted_classify


def test_one_look_is_at_theta_plus_noise_and_the_other_at_minus():
    # over the batch: features of an untrained backbone in evaluation are all near 0
    model, task = network(dropout=0.0).train(), SmoothedClassification([0.3, 0.1])
    looks, (images, labels) = Looks(model), batch()
    torch.manual_seed(5)
    noise = 0.3 * torch.randn(4, 2, 2)
    torch.manual_seed(5)
    _, sums, aux = task.loss(model, (images, labels))
    (ahead, trained), (behind, untrained) = looks.thetas
    assert trained and not untrained
    assert torch.equal(ahead, aux["theta"] + noise) and torch.equal(behind, aux["theta"] - noise)
    assert torch.equal(aux["warped"], model.transformers.warp(images, aux["theta"] + noise))
    assert sums["loss"].item() == pytest.approx(4 * F.cross_entropy(looks.logits[0], labels).item())
    assert (looks.logits[0] - looks.logits[1]).abs().max() > 0.1


def test_both_looks_lose_the_same_units():
    model, task = network(dropout=0.9).train(), SmoothedClassification([0.3, 0.1])
    looks = Looks(model)
    task.loss(model, batch())
    task.loss(model, batch())
    one, other, later, _ = looks.kept
    assert torch.equal(one, other) and one.unique().tolist() == pytest.approx([0, 10])
    assert not torch.equal(one, later)


def as_before(model, images, labels, sigma):
    """The estimator as the network itself once had it, with sigma a Python number."""
    noise = sigma * torch.randn(len(images), 2, 2)
    theta = model.transformers.locate(images)

    def read(at):
        crops = model.transformers.warp(images, at)
        each = [net(crop).mean((2, 3)) for net, crop in zip(model.backbones, crops.unbind(1), strict=True)]
        return torch.cat(each, 1)

    features = read(theta.detach() + noise)
    kept = model.dropout(torch.ones_like(features))
    with torch.no_grad():
        mirrored = model.classifier(read(theta - noise) * kept)
    logits = model.classifier(features * kept)
    loss = F.cross_entropy(logits, labels)
    ahead = F.cross_entropy(logits.detach(), labels, reduction="none")
    slope = (ahead - F.cross_entropy(mirrored, labels, reduction="none")) / (2 * sigma**2)
    towards = (theta * (slope[:, None, None] * noise).detach()).sum((1, 2)).mean()
    return loss + towards - towards.detach()


@pytest.mark.parametrize("share", [0.0, 0.37])
def test_it_is_what_it_was_to_the_bit(share):
    gradients = []
    for estimate in (
        lambda model, task: task.loss(model, batch())[0],
        lambda model, task: as_before(model, *batch(), 0.3 + share * (0.1 - 0.3)),
    ):
        model, task = network().train(), SmoothedClassification([0.3, 0.1])
        task.at(model, share)
        torch.manual_seed(5)
        loss = estimate(model, task)
        loss.backward()
        state = torch.get_rng_state()
        gradients.append([loss.detach(), state, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_theta_learns_from_the_two_looks_alone_and_the_rest_as_ever():
    model, task = network(dropout=0.0).train(), SmoothedClassification([0.3, 0.1])
    looks, (images, labels) = Looks(model), batch()
    torch.manual_seed(5)
    noise = 0.3 * torch.randn(4, 2, 2)
    torch.manual_seed(5)
    task.loss(model, (images, labels))[0].backward()
    head = model.transformers.networks[0].head
    given = model.classifier.weight.grad.clone(), head.bias.grad.clone()
    assert head.weight.grad.abs().sum() > 0
    one, two = (F.cross_entropy(logits.detach(), labels, reduction="none") for logits in looks.logits)
    by_hand = ((one - two) / (2 * 0.09))[:, None, None] * noise / 4
    torch.testing.assert_close(given[1], by_hand.sum(0).flatten())
    model.zero_grad()
    features, _ = model.describe(images, looks.thetas[0][0].detach())
    F.cross_entropy(model.classifier(features), labels).backward()
    torch.testing.assert_close(model.classifier.weight.grad, given[0])
    assert head.weight.grad is None  # the crops have no gradient in theta


def test_without_smoothing_it_is_classification():
    model = network(dropout=0.0).train()
    plain = Classification().loss(model, batch())
    ours = SmoothedClassification().loss(model, batch())
    torch.testing.assert_close(plain[0], ours[0])
    ours[0].backward()
    assert model.transformers.networks[0].head.weight.grad.abs().sum() > 0


def test_sigma_shrinks_in_place_as_training_goes():
    task = SmoothedClassification([0.3, 0.1])
    sigma = task.sigma
    assert sigma.item() == pytest.approx(0.3)
    task.at(nn.Linear(2, 2), 0.5)
    assert task.sigma is sigma and sigma.item() == pytest.approx(0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_step_follows_sigma():
    model, task = Curve((0.1, -0.3)).cuda(), SmoothedClassification([0.4, 0.1])
    images, labels = (
        torch.zeros(50_000, 1, device="cuda"),
        torch.zeros(50_000, dtype=torch.long, device="cuda"),
    )
    task.at(model, 0.0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        task.loss(model, (images, labels))[0].backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, _, aux = task.loss(model, (images, labels))
        noise = (aux["warped"] - aux["theta"]).std()
    for share, sigma in ((0.0, 0.4), (1.0, 0.1)):
        task.at(model, share)
        graph.replay()
        assert noise.item() == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("smoothing", [[0.3], [0.3, 0.0], [0.1, 0.2, 0.3]])
def test_what_cannot_be_is_refused(smoothing):
    with pytest.raises(UserError, match=r"task.smoothing=.* is two numbers above 0"):
        SmoothedClassification(smoothing)


def test_a_network_without_transformers_has_nothing_to_smooth():
    for model in (nn.Linear(2, 2), st_fcn((1, 28, 28), transform=Affine(), width=4)):
        with pytest.raises(UserError, match=r"this network has none: task\.smoothing=null"):
            SmoothedClassification([0.3, 0.1]).loss(model, batch())


def test_the_papers_schedule_has_the_samplers_own_gradient():
    for trainer, smoothing, norm in (("paper_birds", None, "batch"), ("fast", [0.3, 0.15], "frozen")):
        cfg = configuration(["experiment=cub_2st_448", f"trainer={trainer}"])
        assert cfg.task.smoothing == smoothing and cfg.backbone.norm == norm
    assert BirdClassification().smoothing is None
