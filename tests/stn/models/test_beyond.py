"""Networks beyond the paper: batch normalisation, a localisation network applied twice, shared convolutions."""

import pytest
import torch
from torch import nn

from stn import (
    Affine,
    Attention,
    FCTrunk,
    LocalisationNetwork,
    Projective,
    ThinPlateSpline,
    Translation,
    localisation_parameters,
    sample,
)
from stn.localisation import Head
from stn.models.beyond import SharedSTN, st_cnn_shared
from stn.models.budget import count_parameters
from stn.models.mnist import CNN, cnn, st_cnn

TRANSFORMS = [Affine, Attention, Projective, ThinPlateSpline, lambda: Translation(1)]
NETWORKS = {
    "bn": lambda in_shape, **kw: st_cnn(in_shape, batch_norm=True, **kw),
    "iterated": lambda in_shape, **kw: st_cnn(in_shape, looks=2, **kw),
    "shared": st_cnn_shared,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moved(model, std=0.1):
    """With heads whose theta depends on the image, as after some training."""
    for module in model.modules():
        if isinstance(module, Head):
            nn.init.normal_(module.weight, std=std)
    return model


# -- all three -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make"),
    [(n, make) for n in NETWORKS for make in TRANSFORMS if (n, make) != ("iterated", ThinPlateSpline)],
)
@pytest.mark.parametrize(("side", "pool"), [(28, 1), (42, 2)])
def test_they_start_as_the_classifier_on_the_image(name, make, side, pool):
    transform = make()
    model = NETWORKS[name]((2, side, side), transform=transform, pool=pool, width=4, num_classes=7).eval()
    image = torch.rand(3, 2, side, side)
    logits, aux = model(image)
    assert logits.shape == (3, 7) and set(aux) == {"theta", "warped"}
    assert aux["theta"].shape == (3, 1, transform.num_params) and aux["warped"].shape == (3, 1, 2, side, side)
    assert (aux["theta"] == transform.identity()).all()
    torch.testing.assert_close(aux["warped"][:, 0], image, atol=2e-5, rtol=0)
    plain = model.classifier(nn.functional.avg_pool2d(image, pool))[0]
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)
    assert model.transformers.count == 1 and model.transformers.transform is transform


@pytest.mark.parametrize("side", [28, 42])
def test_the_budget_is_the_papers(side):
    pool = 2 if side == 42 else 1
    makes = [
        lambda make=make: make((1, side, side), transform=Affine(), pool=pool) for make in NETWORKS.values()
    ]
    for make in (*makes, lambda: cnn((1, side, side), batch_norm=True)):
        assert abs(count_parameters(make()) - 400_000) <= 4_000
    # looking twice costs no parameter
    assert makes[1]().width == st_cnn((1, side, side), transform=Affine(), pool=pool).width


@pytest.mark.parametrize("name", NETWORKS)
def test_two_steps_of_training_move_every_parameter(name):
    model = NETWORKS[name]((1, 28, 28), transform=Affine(), width=16)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image, label = torch.rand(4, 1, 28, 28), torch.arange(4)
    for _ in range(2):  # in the first step the zero head keeps the trunk's gradient at zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image)[0], label).backward()
        optimizer.step()
    assert [
        name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])
    ] == []


# -- batch normalisation ---------------------------------------------------------------------------


def test_normalisation_stands_between_each_layer_and_its_relu():
    model = moved(st_cnn((1, 28, 28), transform=Affine(), width=4, batch_norm=True)).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [20, 20, 20, 4, 4]
    for norm in norms:
        norm.running_mean.uniform_(-0.1, 0.1), norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)  # of both signs: pooling must follow
    image = torch.rand(3, 1, 28, 28)

    def normalised(x, norm):
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, variance, weight, bias = (
            t.view(shape) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return torch.relu((x - mean) / (variance + norm.eps).sqrt() * weight + bias)

    trunk, pool = model.transformers.networks[0].localisation, nn.MaxPool2d(2, ceil_mode=True)
    layers = [m for m in trunk if isinstance(m, nn.Conv2d | nn.Linear)]
    x = pool(normalised(layers[0](nn.functional.avg_pool2d(image, 2)), norms[0]))
    x = normalised(layers[1](x), norms[1]).flatten(1)
    theta = model.transformers.networks[0].head(normalised(layers[2](x), norms[2]))
    classifier = model.classifier
    x = pool(normalised(classifier.conv1(sample(image, Affine().grid(theta, (28, 28)))), norms[3]))
    x = pool(normalised(classifier.conv2(x), norms[4]))
    logits, aux = model(image)
    torch.testing.assert_close(aux["theta"][:, 0], theta)
    torch.testing.assert_close(logits, classifier.classifier(x.flatten(1)), atol=1e-4, rtol=1e-4)
    assert all(layer.bias is None for layer in (*layers, classifier.conv1, classifier.conv2))


def test_running_statistics_follow_the_batches_and_only_evaluation_uses_them():
    model = cnn((1, 28, 28), width=4, batch_norm=True)
    image = torch.rand(8, 1, 28, 28)
    first = model.conv1(image).detach()
    model(image)
    torch.testing.assert_close(model.norm1.running_mean, 0.1 * first.mean((0, 2, 3)))
    torch.testing.assert_close(model.norm1.running_var, 0.9 + 0.1 * first.transpose(0, 1).flatten(1).var(1))
    whole, held = model.eval()(image)[0], {name: b.clone() for name, b in model.named_buffers()}
    alone = torch.cat([model(one[None])[0] for one in image])  # independent of the rest of the batch
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(b, held[name]) for name, b in model.named_buffers())


def test_without_normalisation_the_names_are_as_before():
    names = {
        name.rpartition(".")[0] for name in st_cnn((1, 28, 28), transform=Affine(), width=3).state_dict()
    }
    trunk = {f"transformers.0.localisation.{i}" for i in (1, 4, 7)}
    assert names == {
        *trunk,
        "transformers.0.head",
        "classifier.conv1",
        "classifier.conv2",
        "classifier.classifier",
    }


# -- applied twice ---------------------------------------------------------------------------------


def localiser(transform, looks):
    torch.manual_seed(1)
    network = LocalisationNetwork(FCTrunk((1, 12, 14), hidden=(6,)), transform, looks=looks)
    return moved(network).double()


def test_one_look_is_the_papers_network():
    torch.manual_seed(3)
    once = moved(st_cnn((1, 28, 28), transform=Affine(), width=4, looks=1))
    torch.manual_seed(3)
    plain, image = moved(st_cnn((1, 28, 28), transform=Affine(), width=4)), torch.rand(2, 1, 28, 28)
    assert torch.equal(once(image)[0], plain(image)[0])
    plain.load_state_dict(moved(st_cnn((1, 28, 28), transform=Affine(), width=4, looks=3)).state_dict())


@pytest.mark.parametrize("looks", [2, 3])
def test_affine_looks_compose_as_matrices_from_the_left(looks):
    network, image = localiser(Affine(), looks), torch.rand(3, 1, 12, 14, dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    for _ in range(looks):
        view = nn.functional.grid_sample(  # always of the image itself
            image, nn.functional.affine_grid(matrix[:, :2], [3, 1, 12, 14], False), align_corners=False
        )
        step = network.head(network.localisation(view)).view(3, 2, 3)
        matrix = matrix @ torch.cat(
            [step, torch.tensor([[[0.0, 0, 1]]], dtype=torch.float64).expand(3, 1, 3)], 1
        )
    torch.testing.assert_close(network(image)[:, 0].view(3, 2, 3), matrix[:, :2], atol=1e-12, rtol=0)
    assert (network(image) - localiser(Affine(), 1)(image)).abs().max() > 0.01


@pytest.mark.parametrize("make", [Affine, Projective, Attention, lambda: Translation(1)])
def test_the_gradient_goes_through_every_look(make):
    network = localiser(make(), 2)
    image = torch.rand(2, 1, 12, 14, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda bias: torch.func.functional_call(network, {"head.bias": bias}, (image,)),
        (network.head.bias.detach() + 0.05).requires_grad_(),
    )


def test_what_cannot_be_applied_twice_is_refused():
    for transform in (ThinPlateSpline(), Translation(0.5)):
        with pytest.raises(ValueError, match="do not compose"):
            LocalisationNetwork(FCTrunk((1, 12, 14)), transform, looks=2)
    with pytest.raises(ValueError, match="looks is at least 1"):
        LocalisationNetwork(FCTrunk((1, 12, 14)), Affine(), looks=0)
    with pytest.raises(ValueError, match="exactly 1 for a network with starts"):
        LocalisationNetwork(FCTrunk((1, 12, 14)), Affine(), starts=Affine().identity()[None], looks=2)


# -- shared convolutions ---------------------------------------------------------------------------


def test_theta_is_made_of_the_classifiers_own_features():
    model = moved(st_cnn_shared((1, 42, 42), transform=Affine(), pool=2, width=4))
    image = torch.rand(3, 1, 42, 42)
    _, features, _ = model.classifier.activations(nn.functional.avg_pool2d(image, 2))
    network = model.transformers.networks[0]
    theta = network.head(torch.relu(network.localisation[1](features.flatten(1))))
    logits, aux = model(image)
    torch.testing.assert_close(aux["theta"][:, 0], theta)
    torch.testing.assert_close(model.transformers.locate(features), aux["theta"])
    warped = sample(image, Affine().grid(theta, (42, 42)))
    torch.testing.assert_close(model.transformers.warp(image, aux["theta"])[:, 0], warped)
    torch.testing.assert_close(logits, model.classifier(nn.functional.avg_pool2d(warped, 2))[0])


def test_the_shared_convolutions_count_as_the_classifiers():
    model = st_cnn_shared((1, 28, 28), transform=Affine(), width=4)
    own = [
        p
        for part in ("localisation.1", "head")
        for p in model.get_submodule(f"transformers.0.{part}").parameters()
    ]
    assert [id(p) for p in localisation_parameters(model)] == [id(p) for p in own]
    # 4 filters, 2 x 2 left: 16 * 20 + 20, then 20 * 6 + 6
    assert sum(p.numel() for p in own) == 340 + 126
    assert count_parameters(model) == 340 + 126 + count_parameters(CNN((1, 28, 28), width=4))
    assert len(model.state_dict()) == len(list(model.parameters()))  # nothing is held twice


def test_theta_trains_the_shared_convolutions():
    model = moved(SharedSTN(Affine(), CNN((1, 28, 28), width=4)))
    model(torch.rand(2, 1, 28, 28))[1]["theta"].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (model.classifier.conv1.weight, model.classifier.conv2.weight))
    assert model.classifier.classifier.weight.grad is None


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 21 x 21 pixels, not 14 x 14"):
        st_cnn_shared((1, 28, 28), transform=Affine(), pool=2)
