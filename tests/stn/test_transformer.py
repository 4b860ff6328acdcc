"""The module: localisation network, grid and sampler together, wherever in a network they sit."""

import copy

import pytest
import torch
from torch import Tensor, nn

from stn import (
    Affine,
    Affine3d,
    Attention,
    ConvTrunk,
    FCTrunk,
    LocalisationNetwork,
    ParallelTransformers,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    in_frame,
    localisation_parameters,
    sample,
)
from stn.localisation import Head

TRANSFORMS = {
    "attention": lambda: Attention(),
    "translation": lambda: Translation(scale=1),
    "affine": lambda: Affine(),
    "projective": lambda: Projective(),
    "tps": lambda: ThinPlateSpline(),
}


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param]()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def loosened(transformer: SpatialTransformer, spread: float = 0.05) -> SpatialTransformer:
    """The same, with a head whose theta depends on the image, as after some training."""
    with torch.no_grad():
        transformer.head.weight.normal_(0, spread)
    return transformer


def parameter_names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


# -- where it starts -------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", [FCTrunk, ConvTrunk])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_starts_as_the_identity_for_any_image(transform, trunk, padding):
    image = torch.rand(3, 2, 28, 30)
    warped, theta = SpatialTransformer(trunk((2, 28, 30)), transform, padding=padding)(image)
    torch.testing.assert_close(warped, image, atol=2e-5, rtol=0)
    assert (theta == transform.identity()).all()
    assert theta.shape == (3, transform.num_params)


def test_head_is_zero_weights_and_an_identity_bias(transform):
    head = SpatialTransformer(FCTrunk((1, 8, 8)), transform).head
    assert (head.weight == 0).all()
    assert (head.bias == transform.identity()).all()
    assert head.weight.shape == (transform.num_params, 32)


def test_start_sets_another_first_pose():
    """Two half-size windows side by side, as in the birds network (section 4.3)."""
    image = torch.rand(2, 3, 16, 16)
    for x, expected in [(-0.5, image[..., 4:12, :8]), (0.5, image[..., 4:12, 8:])]:
        start = torch.tensor([x, 0])
        st = SpatialTransformer(FCTrunk((3, 16, 16)), Translation(scale=0.5), (8, 8), start=start)
        torch.testing.assert_close(st(image)[0], expected, atol=1e-5, rtol=0)


def test_a_start_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="start must have 6 numbers"):
        SpatialTransformer(FCTrunk((1, 8, 8)), Affine(), start=torch.zeros(2))
    with pytest.raises(ValueError, match="a head of your own sets its own start"):
        SpatialTransformer(FCTrunk((1, 8, 8)), Affine(), start=torch.zeros(6), head=nn.Linear(32, 6))


def test_initialising_a_network_again_keeps_the_start():
    start = torch.tensor([0.5, -0.25])
    st = SpatialTransformer(FCTrunk((1, 8, 8)), Translation(), start=start)
    before = st.localisation[1].weight.clone()
    for module in st.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert not torch.equal(st.localisation[1].weight, before)
    assert (st(torch.rand(2, 1, 8, 8))[1] == start).all()


def test_all_parameters_get_gradients_once_the_head_has_moved(transform):
    st = loosened(SpatialTransformer(FCTrunk((1, 28, 28)), transform))
    st(torch.rand(2, 1, 28, 28))[0].square().sum().backward()
    for name, parameter in st.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


# -- shapes and arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("out_size", [None, (14, 14), (9, 20), (40, 40)])
def test_out_size(transform, out_size):
    image = torch.rand(2, 3, 28, 24)
    warped, _ = SpatialTransformer(FCTrunk((3, 28, 24)), transform, out_size)(image)
    assert warped.shape == (2, 3, *(out_size or (28, 24)))
    if out_size == (14, 14):
        # At the identity, 28 -> 14 falls midway between two rows; 24 -> 14 somewhere between two columns.
        rows = (image[..., 0::2, :] + image[..., 1::2, :]) / 2
        expected = nn.functional.interpolate(rows, (14, 14), mode="bilinear", align_corners=False)
        torch.testing.assert_close(warped, expected, atol=2e-5, rtol=0)


def test_out_size_may_be_one_number_for_all_sides(transform):
    image = torch.rand(2, 1, 12, 10)
    trunk = FCTrunk((1, 12, 10))
    one, two = (SpatialTransformer(trunk, transform, size)(image)[0] for size in (7, (7, 7)))
    assert torch.equal(one, two)
    network = LocalisationNetwork(trunk, transform)
    assert ParallelTransformers([network], transform, 7)(image)[0].shape == (2, 1, 1, 7, 7)
    volume = SpatialTransformer(FCTrunk((1, 3, 4, 5)), Affine3d(), 2)(torch.rand(2, 1, 3, 4, 5))[0]
    assert volume.shape == (2, 1, 2, 2, 2)


@pytest.mark.parametrize("out_size", [0, -3, (14,), (4, 4, 4), (0, 4)])
def test_an_out_size_that_does_not_fit_is_refused(out_size):
    with pytest.raises(ValueError, match="out_size is one number, or 2 for Affine, each from 1; not"):
        SpatialTransformer(FCTrunk((1, 8, 8)), Affine(), out_size)


def test_in_a_sequential_the_warped_image_alone_is_passed_on():
    st = loosened(SpatialTransformer(FCTrunk((1, 8, 8)), Affine(), 5, with_theta=False))
    image, layer = torch.rand(2, 1, 8, 8), nn.Linear(25, 3)
    out = nn.Sequential(st, nn.Flatten(), layer)(image)
    st.with_theta = True
    assert torch.equal(out, layer(st(image)[0].flatten(1)))


@pytest.mark.parametrize("make", [FCTrunk, ConvTrunk])
@pytest.mark.parametrize("shape", [(2, 1, 27, 28), (2, 1, 30, 30), (2, 3, 28, 28), (1, 28, 28)])
def test_an_image_of_another_shape_is_named(make, shape):
    """27 x 28 would pass through the pooling of ConvTrunk all the same."""
    st = SpatialTransformer(make((1, 28, 28)), Affine())
    with pytest.raises(ValueError, match=f"{make.__name__} .* expected .B, 1, 28, 28., got") as caught:
        st(torch.rand(shape))
    assert str(tuple(shape)) in str(caught.value)


def test_mode_and_padding_reach_the_sampler():
    image, start = torch.rand(1, 1, 8, 8), torch.tensor([1.0, 0, 0.8, 0, 1, 0.3])
    grid = Affine().grid(start[None], (8, 8))
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border"):
            st = SpatialTransformer(FCTrunk((1, 8, 8)), Affine(), mode=mode, padding=padding, start=start)
            assert torch.equal(st(image)[0], sample(image, grid, mode=mode, padding=padding))


def test_seen_is_what_the_localisation_network_looks_at():
    st = loosened(SpatialTransformer(FCTrunk((1, 6, 6)), Affine()))
    image, seen, other = torch.rand(2, 3, 12, 12), torch.rand(2, 1, 6, 6), torch.rand(2, 1, 6, 6)
    warped, theta = st(image, seen)
    assert warped.shape == image.shape
    assert torch.equal(theta, st.head(st.localisation(seen)))
    assert torch.equal(warped, sample(image, Affine().grid(theta, (12, 12))))
    assert not torch.equal(theta, st(image, other)[1])


def test_localisation_may_be_a_plain_sequential():
    localisation = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 7), nn.ReLU(), nn.Dropout())
    st = SpatialTransformer(localisation, Affine())
    assert st.head.in_features == 7
    assert st(torch.rand(2, 1, 8, 8))[0].shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    "localisation",
    [nn.Flatten(), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())],
    ids=["flatten", "sequential"],
)
def test_features_that_cannot_be_told_are_an_error_that_says_what_to_do(localisation):
    with pytest.raises(ValueError, match=f"{type(localisation).__name__}.*out_features"):
        SpatialTransformer(localisation, Affine())
    localisation.out_features = 144
    assert SpatialTransformer(localisation, Affine()).head.in_features == 144


@pytest.mark.parametrize("size", [(25, 24), (24, 25), (10, 28)])
def test_conv_trunk_refuses_an_image_too_small(size):
    with pytest.raises(ValueError, match=f"at least 25 x 25 pixels, not {size[0]} x {size[1]}"):
        ConvTrunk((1, *size))
    assert ConvTrunk((1, 25, 25))(torch.rand(2, 1, 25, 25)).shape == (2, 20)


@pytest.mark.parametrize("trunk", [FCTrunk, ConvTrunk])
def test_an_empty_batch_gives_an_empty_batch(transform, trunk):
    warped, theta = SpatialTransformer(trunk((1, 28, 28)), transform)(torch.rand(0, 1, 28, 28))
    assert warped.shape == (0, 1, 28, 28)
    assert theta.shape == (0, transform.num_params)


# -- in a network ----------------------------------------------------------------------------------


def test_in_series_the_second_sees_what_the_first_made():
    """Two quarter turns make a half turn."""
    quarter = torch.tensor([0.0, -1, 0, 1, 0, 0])
    first, second = (SpatialTransformer(FCTrunk((1, 12, 12)), Affine(), start=quarter) for _ in range(2))
    image = torch.rand(2, 1, 12, 12)
    out = second(first(image)[0])[0]
    torch.testing.assert_close(out, image.rot90(2, (-2, -1)), atol=1e-5, rtol=0)
    loosened(second)(loosened(first)(image)[0])[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in first.parameters())


def test_in_parallel_each_goes_its_own_way():
    flips = [[-1.0, 0, 0, 0, 1, 0], [1.0, 0, 0, 0, -1, 0]]
    sts = [SpatialTransformer(FCTrunk((2, 12, 12)), Affine(), start=torch.tensor(flip)) for flip in flips]
    image = torch.rand(2, 2, 12, 12)
    out = torch.cat([st(image)[0] for st in sts], dim=1)
    torch.testing.assert_close(out, torch.cat([image.flip(-1), image.flip(-2)], dim=1), atol=1e-5, rtol=0)


class FeatureMapNet(nn.Module):
    """A transformer between two convolutions, its theta fed forward to the classifier (section 3.4)."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(1, 5, 3, padding=1)
        self.st = SpatialTransformer(FCTrunk((5, 16, 16), hidden=(8,)), Affine(), (8, 8))
        self.after = nn.Conv2d(5, 2, 3)
        self.classifier = nn.Linear(2 * 6 * 6 + 6, 3)

    def forward(self, image: Tensor) -> Tensor:
        warped, theta = self.st(self.before(image).relu())
        return self.classifier(torch.cat([self.after(warped).flatten(1), theta], dim=1))


def test_on_feature_maps_inside_a_cnn_with_theta_fed_forward():
    net = FeatureMapNet()
    loosened(net.st)
    logits = net(torch.rand(4, 1, 16, 16))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


# -- localisation_parameters -----------------------------------------------------------------------


def test_localisation_parameters_are_trunk_and_head_and_nothing_else():
    net = FeatureMapNet()
    names = parameter_names(net, localisation_parameters(net))
    assert names == {name for name, _ in net.named_parameters() if name.startswith("st.")}
    assert localisation_parameters(nn.Linear(2, 2)) == []


def test_localisation_parameters_come_once_each_from_a_shared_localisation_net():
    shared = FCTrunk((1, 8, 8), hidden=(4, 4))
    model = nn.ModuleList([SpatialTransformer(shared, Affine()) for _ in range(2)])
    found = localisation_parameters(model)
    assert len(found) == len({id(p) for p in found}) == 2 * 2 + 2 * 2
    assert parameter_names(model, found) == {name for name, _ in model.named_parameters()}
    torch.optim.SGD(found, lr=0.1)  # which warns of a parameter given twice


# -- learning --------------------------------------------------------------------------------------


def test_learning_registers_a_shifted_picture():
    """From the identity, only the warped picture in the loss, to the shift that undoes it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 20), indexing="ij")
    target = torch.exp(-6 * (x**2 + y**2))[None, None]
    moved = torch.exp(-6 * ((x - 0.3) ** 2 + (y + 0.2) ** 2))[None, None]
    st = SpatialTransformer(FCTrunk((1, 20, 20), hidden=(8,)), Translation(scale=1))
    optimizer = torch.optim.Adam(st.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(st(moved)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    # x = 0.3 between pixel centres is 0.3 * 19 / 20 between pixel edges.
    torch.testing.assert_close(st(moved)[1][0], torch.tensor([0.285, -0.19]), atol=0.03, rtol=0)


# -- copies and dtypes -----------------------------------------------------------------------------


def test_state_dict_round_trip(transform):
    image = torch.rand(2, 1, 28, 28)
    trained, fresh = (SpatialTransformer(FCTrunk((1, 28, 28)), transform) for _ in range(2))
    loosened(trained)
    assert not torch.equal(trained(image)[0], fresh(image)[0])
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(image)[0], fresh(image)[0])
    # Learnt numbers only: what follows from the constructor is not in a checkpoint.
    assert set(trained.state_dict()) == {name for name, _ in trained.named_parameters()}


def test_deepcopy_gives_the_same_and_shares_nothing(transform):
    image = torch.rand(2, 1, 28, 28)
    st = loosened(SpatialTransformer(FCTrunk((1, 28, 28)), transform))
    before = st(image)[0].detach()  # before the copy, so that caches are filled
    twin = copy.deepcopy(st)
    assert torch.equal(twin(image)[0], before)
    with torch.no_grad():
        twin.head.bias.add_(0.5)
    assert torch.equal(st(image)[0], before)
    assert not torch.equal(twin(image)[0], before)


def test_float64(transform):
    st = SpatialTransformer(ConvTrunk((1, 28, 28)), transform).double()
    image = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    warped, theta = st(image)
    assert warped.dtype == theta.dtype == torch.float64
    # The identity's bias was float32, and the TPS grid's thirds are not exact in it.
    torch.testing.assert_close(
        warped, image, atol=1e-12 if not isinstance(transform, ThinPlateSpline) else 1e-5, rtol=0
    )


# -- pitfalls --------------------------------------------------------------------------------------


def test_pitfall_bf16_autocast_leaves_theta_grid_and_sampling_in_float32(transform):
    image = torch.rand(2, 1, 224, 224)
    st = loosened(SpatialTransformer(FCTrunk((1, 224, 224), hidden=(8,)), transform), spread=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        features = st.localisation(image)
        warped, theta = st(image)
    assert features.dtype == torch.bfloat16
    assert theta.dtype == warped.dtype == torch.float32
    # The trunk ran in bf16; from its features on, everything is as in float64.
    exact_theta = nn.functional.linear(features.double(), st.head.weight.double(), st.head.bias.double())
    exact = transform.grid(exact_theta, (224, 224))
    assert (transform.grid(theta, (224, 224)) - exact).abs().max() * 112 < 1e-3
    torch.testing.assert_close(warped.double(), sample(image.double(), exact), atol=1e-3, rtol=0)


def test_pitfall_identity_survives_bf16_autocast(transform):
    image = torch.rand(1, 1, 224, 224)
    with torch.autocast("cpu", torch.bfloat16):
        warped, _ = SpatialTransformer(ConvTrunk((1, 224, 224)), transform)(image)
    torch.testing.assert_close(warped, image, atol=5e-5, rtol=0)


def test_head_takes_bf16_features_and_answers_in_float32():
    head = Head(4, Affine())
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.rand(2, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pitfall_diverged_localisation_raises_in_the_forward_pass(transform, padding, value):
    st = SpatialTransformer(FCTrunk((1, 28, 28)), transform, padding=padding)
    with torch.no_grad():
        st.head.bias[-1] = value
    with pytest.raises(FloatingPointError, match="2 of 2 images: the localisation network has diverged"):
        st(torch.rand(2, 1, 28, 28))


def test_pitfall_a_window_outside_the_image_never_comes_back():
    start = torch.tensor([1.0, 3, 3])
    st = SpatialTransformer(FCTrunk((1, 8, 8)), Attention(), start=start)
    optimizer = torch.optim.SGD(st.parameters(), lr=1.0)
    for _ in range(3):
        warped, theta = st(torch.rand(2, 1, 8, 8))
        optimizer.zero_grad()
        (warped - 1).square().sum().backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in st.parameters())
        optimizer.step()
    assert (theta == start).all()
    assert in_frame(Attention().grid(theta, (8, 8))).tolist() == [0, 0]
