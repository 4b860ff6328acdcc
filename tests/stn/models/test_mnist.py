"""The paper's MNIST networks: every layer's shape and parameter count by hand, and the equal budget."""

import pytest
import torch
from torch import nn

from stn import (
    Affine,
    LocalisationNetwork,
    ParallelTransformers,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    localisation_parameters,
    sample,
)
from stn.models.budget import count_parameters
from stn.models.mnist import CNN, FCN, STN, average_pool, cnn, fcn, st_cnn, st_fcn

TRANSFORMS = {"affine": Affine, "projective": Projective, "tps": ThinPlateSpline}
# Experiment: image side, pooling after the transformers (section 4.1).
COLUMNS = {"R, P, E": (28, 1), "RTS": (42, 2), "TC": (60, 2)}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shapes(
    model: nn.Module, image_shape: tuple[int, ...], kinds: tuple[type[nn.Module], ...]
) -> list[list[int]]:
    """What each layer of these kinds takes and gives, without the batch, in order of execution."""
    seen: list[list[int]] = []

    def note(_module, inputs, output):
        seen.append([*inputs[0].shape[1:]])
        seen.append([*output.shape[1:]])

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(torch.rand(2, *image_shape))
    for hook in hooks:
        hook.remove()
    return seen


# -- layers, by hand -------------------------------------------------------------------------------


def test_fcn_layers_by_hand():
    assert shapes(fcn((1, 28, 28), width=10), (1, 28, 28), (nn.Linear,)) == [
        [784],
        [10],
        [10],
        [10],
        [10],
        [10],
    ]


def test_fcn_parameters_by_hand():
    # 784 * 10 + 10, 10 * 10 + 10, 10 * 10 + 10
    assert count_parameters(fcn((1, 28, 28), width=10)) == 7850 + 110 + 110


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (28, [28, 20, 10, 4, 2]),
        (42, [42, 34, 17, 11, 6]),
        (60, [60, 52, 26, 20, 10]),
        (21, [21, 13, 7, 1, 1]),
        (30, [30, 22, 11, 5, 3]),
    ],
)
def test_cnn_layers_by_hand(side, sides):
    """side -9x9-> -pool-> -7x7-> -pool-> classifier; the pools keep a last half window."""
    into1, out1, into2, out2, left = sides
    assert shapes(cnn((1, side, side), width=4), (1, side, side), (nn.Conv2d, nn.Linear)) == [
        [1, into1, into1],
        [4, out1, out1],
        [4, into2, into2],
        [4, out2, out2],
        [4 * left * left],
        [10],
    ]


def test_cnn_parameters_by_hand():
    # 9 * 9 * 4 + 4, 7 * 7 * 4 * 4 + 4, 2 * 2 * 4 * 10 + 10
    assert count_parameters(cnn((1, 28, 28), width=4)) == 328 + 788 + 170


def test_cnn_pools_before_it_rectifies_to_the_same_effect():
    """The textbook order, convolution - ReLU - pool, gives the same logits."""
    model, image = cnn((1, 28, 28), width=4), torch.rand(2, 1, 28, 28)
    pool = nn.MaxPool2d(2, ceil_mode=True)
    textbook = nn.Sequential(
        model.conv1, nn.ReLU(), pool, model.conv2, nn.ReLU(), pool, nn.Flatten(), model.classifier
    )
    torch.testing.assert_close(model(image)[0], textbook(image), atol=0, rtol=0)


def test_fcn_is_two_hidden_layers_with_relu():
    model, image = fcn((1, 28, 28), width=7), torch.rand(2, 1, 28, 28)
    layers = nn.Sequential(nn.Flatten(), model.hidden1, nn.ReLU(), model.hidden2, nn.ReLU(), model.classifier)
    torch.testing.assert_close(model(image)[0], layers(image), atol=0, rtol=0)


def test_st_cnn_on_rts_is_possible_only_with_ceil_mode():
    """Localisation: 42 -> 21 -> 17 -> 9 -> 5. Halved after the transformer: 21 -> 13 -> 7 -> 1 -> 1."""
    model = st_cnn((1, 42, 42), transform=Affine(), pool=2, width=4)
    assert shapes(model, (1, 42, 42), (nn.Conv2d, nn.Linear)) == [
        [1, 21, 21],
        [20, 17, 17],
        [20, 9, 9],
        [20, 5, 5],
        [20 * 5 * 5],
        [20],
        [20],
        [6],
        [1, 21, 21],
        [4, 13, 13],
        [4, 7, 7],
        [4, 1, 1],
        [4],
        [10],
    ]


def test_st_cnn_localisation_on_r_by_hand():
    """28 -> 14 -> 10 -> 5 -> 1 -> 20 -> 32."""
    model = st_cnn((1, 28, 28), transform=ThinPlateSpline(), width=4)
    assert shapes(model, (1, 28, 28), (nn.Conv2d, nn.Linear))[:8] == [
        [1, 14, 14],
        [20, 10, 10],
        [20, 5, 5],
        [20, 1, 1],
        [20],
        [20],
        [20],
        [32],
    ]
    # 5 * 5 * 20 + 20, 5 * 5 * 20 * 20 + 20, 20 * 20 + 20, 20 * 32 + 32
    assert sum(p.numel() for p in localisation_parameters(model)) == 520 + 10020 + 420 + 672


def test_st_fcn_localisation_by_hand():
    """Three fully connected layers of 32, then theta."""
    model = st_fcn((1, 28, 28), transform=Affine(), width=5)
    layers = [[784], [32], [32], [32], [32], [32], [32], [6]]
    assert shapes(model, (1, 28, 28), (nn.Linear,))[:8] == layers
    # 784 * 32 + 32, twice 32 * 32 + 32, 32 * 6 + 6
    assert sum(p.numel() for p in localisation_parameters(model)) == 25120 + 2 * 1056 + 198


@pytest.mark.parametrize("make", [st_fcn, st_cnn])
@pytest.mark.parametrize(("side", "pool", "left"), [(28, 1, 28), (42, 2, 21), (43, 2, 22), (60, 2, 30)])
def test_the_classifier_sees_the_pooled_image(make, side, pool, left):
    model, image = make((1, side, side), transform=Affine(), pool=pool, width=4), torch.rand(2, 1, side, side)
    given = []
    model.classifier.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    model(image)
    assert given[0].shape == (2, 1, left, left)
    if side == 42:  # the transformer starts as the identity: 2x average pooling of the image itself
        expected = image.reshape(2, 1, 21, 2, 21, 2).mean((3, 5))
        torch.testing.assert_close(given[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 1, 42, 42), (3, 4, 6, 8), (2, 2, 7, 6), (1, 1, 6, 7), (1, 2, 9, 9)])
def test_average_pooling_is_torchs(shape, size):
    image = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    ours, theirs = average_pool(image, size), nn.functional.avg_pool2d(image, size, ceil_mode=True)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.rand_like(ours)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, image, upstream, retain_graph=True) for out in (ours, theirs))
    )


# -- what a network gives --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fcn, cnn])
@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 30, 41)])
def test_pitfall_baseline_networks_contain_no_spatial_transformer(make, in_shape):
    model = make(in_shape, width=3)
    assert not any(isinstance(module, SpatialTransformer | LocalisationNetwork) for module in model.modules())
    assert localisation_parameters(model) == []
    logits, aux = model(torch.rand(2, *in_shape))
    assert logits.shape == (2, 10)
    assert aux == {}


@pytest.mark.parametrize("make", [st_fcn, st_cnn])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("in_shape", "pool"), [((1, 28, 28), 1), ((1, 42, 42), 2), ((3, 44, 60), 2)])
def test_aux_holds_theta_and_the_warped_images(make, name, in_shape, pool):
    transform = TRANSFORMS[name]()
    model, image = make(in_shape, transform=transform, pool=pool, width=3), torch.rand(2, *in_shape)
    logits, aux = model(image)
    assert logits.shape == (2, 10)
    assert set(aux) == {"theta", "warped"}
    assert aux["theta"].shape == (2, 1, transform.num_params)
    assert (aux["theta"] == transform.identity()).all()
    torch.testing.assert_close(aux["warped"], image[:, None], atol=2e-5, rtol=0)


@pytest.mark.parametrize("make", [st_fcn, st_cnn])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_two_parallel_transformers_on_two_channels(make, name):
    """MNIST addition (appendix A.1): each sees and warps both channels; four channels, 19 classes."""
    transform = TRANSFORMS[name]()
    model = make((2, 42, 42), transform=transform, num_classes=19, num_transformers=2, pool=2, width=6)
    with torch.no_grad():
        model.transformers.networks[1].head.bias += 0.1
    given, image = [], torch.rand(3, 2, 42, 42)
    model.classifier.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    logits, aux = model(image)
    assert logits.shape == (3, 19)
    assert aux["theta"].shape == (3, 2, transform.num_params)
    assert aux["warped"].shape == (3, 2, 2, 42, 42)
    assert given[0].shape == (3, 4, 21, 21)
    # In this order: first transformer's channels, second's; and each transformer has its own parameters.
    alone = [
        sample(image, transform.grid(network(image)[:, 0], (42, 42)))
        for network in model.transformers.networks
    ]
    assert torch.equal(aux["warped"], torch.stack(alone, dim=1))
    pooled = nn.functional.avg_pool2d(torch.cat(alone, dim=1), 2)
    torch.testing.assert_close(given[0], pooled, atol=1e-6, rtol=0)
    one = make((2, 42, 42), transform=transform, num_classes=19, pool=2, width=6)
    assert len(localisation_parameters(model)) == 2 * len(localisation_parameters(one))


@pytest.mark.parametrize("make", [st_fcn, st_cnn])
def test_head_starts_at_zero_weights_and_identity_bias(make):
    model = make((1, 28, 28), transform=Affine(), num_transformers=2, width=3)
    for network in model.transformers.networks:
        assert (network.head.weight == 0).all()
        assert network.head.bias.tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("make", [st_fcn, st_cnn])
def test_two_steps_of_training_move_every_parameter(make):
    model = make((1, 28, 28), transform=Affine(), width=16)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image, label = torch.rand(4, 1, 28, 28), torch.arange(4)
    for _ in range(2):  # in the first step the zero head keeps the trunk's gradient at zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image)[0], label).backward()
        optimizer.step()
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []


# -- widths ----------------------------------------------------------------------------------------


def networks(side: int, pool: int):
    """Every network of a column of Table 1, by name."""
    in_shape = (1, side, side)
    yield "FCN", lambda **kw: fcn(in_shape, **kw)
    yield "CNN", lambda **kw: cnn(in_shape, **kw)
    for name, transform in TRANSFORMS.items():
        yield (
            f"ST-FCN {name}",
            lambda transform=transform, **kw: st_fcn(in_shape, transform=transform(), pool=pool, **kw),
        )
        yield (
            f"ST-CNN {name}",
            lambda transform=transform, **kw: st_cnn(in_shape, transform=transform(), pool=pool, **kw),
        )


@pytest.mark.parametrize("column", COLUMNS)
def test_every_network_of_a_column_has_the_same_budget(column):
    counts = {name: count_parameters(make()) for name, make in networks(*COLUMNS[column])}
    off = {name: count for name, count in counts.items() if abs(count - 400_000) > 4_000}
    assert off == {}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("budget", [150_000, 400_000])
def test_no_neighbouring_width_is_closer_to_the_budget(column, budget):
    for name, make in networks(*COLUMNS[column]):
        width = make(param_budget=budget).width
        miss = [abs(count_parameters(make(width=w)) - budget) for w in (width - 1, width, width + 1)]
        assert miss[1] == min(miss), (
            f"{name}: width {width} misses by {miss[1]}, its neighbours by {miss[::2]}"
        )


def test_solving_for_the_width_leaves_real_parameters_and_the_random_state_alone():
    torch.manual_seed(1)
    solved = st_cnn((1, 28, 28), transform=Affine())
    torch.manual_seed(1)
    given = st_cnn((1, 28, 28), transform=Affine(), width=solved.width)
    assert all(parameter.device.type == "cpu" for parameter in solved.parameters())
    assert all(torch.equal(a, b) for a, b in zip(solved.parameters(), given.parameters(), strict=True))


@pytest.mark.parametrize(("make", "keywords"), [(fcn, {}), (cnn, {}), (st_fcn, {"transform": Affine()})])
def test_width_overrides_the_budget(make, keywords):
    assert make((1, 28, 28), width=17, param_budget=1, **keywords).width == 17


# -- what is refused -------------------------------------------------------------------------------


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match="param_budget=100 is too small: width 1 already has 807"):
        fcn((1, 28, 28), param_budget=100)


@pytest.mark.parametrize("size", [(20, 28), (28, 20), (8, 8)])
def test_cnn_refuses_an_image_too_small(size):
    with pytest.raises(ValueError, match=f"at least 21 x 21 pixels, not {size[0]} x {size[1]}"):
        cnn((1, *size))
    assert CNN((1, 21, 21), width=2)(torch.rand(1, 1, 21, 21))[0].shape == (1, 10)


def test_st_cnn_refuses_an_image_too_small_for_either_part():
    with pytest.raises(ValueError, match="ConvTrunk needs images of at least 25 x 25"):
        st_cnn((1, 24, 24), transform=Affine())
    with pytest.raises(ValueError, match="CNN needs images of at least 21 x 21 pixels, not 14 x 14"):
        st_cnn((1, 28, 28), transform=Affine(), pool=2)


@pytest.mark.parametrize("keywords", [{"num_transformers": 0}, {"pool": 0}])
@pytest.mark.parametrize("make", [st_fcn, st_cnn])
def test_no_transformers_or_no_pool_is_refused(make, keywords):
    with pytest.raises(ValueError, match="at least 1"):
        make((1, 28, 28), transform=Affine(), **keywords)


def test_stn_takes_any_transformers_and_classifier():
    """The class itself, with an oblong output and a trunk of another kind."""
    networks = [
        LocalisationNetwork(nn.Sequential(nn.Flatten(), nn.Linear(100, 4)), Affine()) for _ in range(3)
    ]
    transformers = ParallelTransformers(networks, Affine(), (6, 8))
    logits, aux = STN(transformers, FCN((3, 3, 4), width=5), pool=2)(torch.rand(2, 1, 10, 10))
    assert logits.shape == (2, 10)
    assert aux["warped"].shape == (2, 3, 1, 6, 8)
