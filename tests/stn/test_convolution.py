"""The convolution's own input gradient is PyTorch's: against nn.Conv2d, finite differences and a hand-made band."""

import copy

import pytest
import torch
from torch import nn

from stn import convolution
from stn.convolution import Conv2d, _band, plain_operations

# in_channels, filters, kernel, (H, W): a width that tiles divide, a prime one, one that is a single tile, more channels
CASES = [
    (1, 5, 9, (28, 28)),
    (1, 3, 9, (21, 21)),
    (2, 4, 5, (12, 9)),
    (4, 2, (3, 5), (7, 20)),
    (1, 3, 9, (9, 9)),
]


def gradients(layer, image):
    image = image.detach().requires_grad_()
    out = layer(image)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape).to(out)
    grads = torch.autograd.grad(out, (image, *layer.parameters()), upstream)
    return [out.detach(), *grads]


def takes_the_band(layer, image):
    return type(layer(image.detach().requires_grad_()).grad_fn).__name__.startswith("_BandGradient")


@pytest.fixture(params=[False, True], ids=["", "tiles"])
def tiles(request, monkeypatch):
    """Whether the CPU multiplies tiles; here in float64, so that it can be compared exactly."""
    monkeypatch.setattr(convolution, "multiplies_tiles", lambda: request.param)
    monkeypatch.setattr(convolution, "TILED", torch.float64)
    return request.param


@pytest.mark.parametrize(("channels", "filters", "kernel", "size"), [*CASES, (7, 6, 3, (5, 6))])
def test_everything_equals_the_plain_convolution(channels, filters, kernel, size, tiles, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(convolution, "PATCHES", 700)  # one to three images a product
    layer = Conv2d(channels, filters, kernel).double()
    image = torch.randn(3, channels, *size, dtype=torch.float64)
    assert takes_the_band(layer, image) == (tiles or channels <= 4)
    twin = nn.Conv2d(channels, filters, kernel).double()
    twin.load_state_dict(layer.state_dict())
    for ours, theirs in zip(gradients(layer, image), gradients(twin, image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_finite_differences_agree(tiles):
    layer = Conv2d(1, 2, 3).double()
    image = torch.randn(2, 1, 7, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, *_: layer(i), (image, *layer.parameters()))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_under_autocast_is_as_exact_as_the_plain_one(memory_format):
    torch.manual_seed(0)
    layer = Conv2d(1, 16, 9).to(memory_format=memory_format)
    image = torch.rand(8, 1, 28, 28)
    exact = gradients(layer, image)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(layer, image)
        with plain_operations():
            plain = gradients(layer, image)
    assert ours[0].dtype == torch.bfloat16 and ours[1].dtype == torch.float32
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert (a - c).norm() <= 1.4 * (b - c).norm()  # sums of rounded parts would be 1.8 times as far off


def test_the_band_of_a_kernel_laid_out_by_hand():
    kernel = torch.tensor([1.0, 2, 3]).reshape(1, 1, 1, 3)
    expected = torch.tensor([[1.0, 2, 3, 0], [0, 1, 2, 3]])  # two outputs of a row see four columns
    assert torch.equal(_band(kernel, 2), expected)


def test_where_the_plain_convolution_is_taken():
    image = torch.rand(2, 1, 20, 20)
    layer = Conv2d(1, 3, 5)
    assert takes_the_band(layer, image)
    assert not type(layer(image).grad_fn).__name__.startswith("_Band")  # nobody asks for the image's gradient
    with plain_operations():
        assert not takes_the_band(layer, image)
    assert takes_the_band(layer, image)
    for other in (Conv2d(1, 3, 5, stride=2), Conv2d(1, 3, 5, padding=2), Conv2d(1, 3, 5, dilation=2)):
        assert not takes_the_band(other, image)
    assert not takes_the_band(Conv2d(8, 3, 5), torch.rand(2, 8, 20, 20))
    for mixed in (layer.double(), Conv2d(1, 3, 5)):  # weights of another dtype are refused as by nn.Conv2d
        other = image if mixed is layer else image.double()
        with pytest.raises(RuntimeError, match="type"):
            mixed(other.detach().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 as it is
        assert layer(image.double()).dtype == torch.float64
    layer.float()
    with torch.no_grad():
        assert layer(image.requires_grad_()).grad_fn is None


def test_without_bias_and_with_frozen_weights():
    layer = Conv2d(1, 3, 5, bias=False).requires_grad_(False)
    twin = nn.Conv2d(1, 3, 5, bias=False)
    twin.load_state_dict(layer.state_dict())
    image = torch.rand(2, 1, 12, 12)
    results = []
    for module in (layer, twin):
        leaf = image.clone().requires_grad_()
        module(leaf).square().sum().backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


def test_a_second_derivative_is_refused():
    layer, image = Conv2d(1, 2, 3), torch.rand(1, 1, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_whole_network_trains_the_same_way_to_rounding():
    from stn import Affine
    from stn.models.mnist import st_cnn

    torch.manual_seed(0)
    network = st_cnn((1, 28, 28), transform=Affine(), width=4).double()
    twin = copy.deepcopy(network)
    images, labels = torch.rand(6, 1, 28, 28, dtype=torch.float64), torch.arange(6)

    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images)[0], labels).backward()
            optimizer.step()

    train(network)
    with plain_operations():
        train(twin)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
