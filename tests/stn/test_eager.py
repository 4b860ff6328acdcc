"""Compiled, exported, traced, vectorised and in onnxruntime, every transform and network is as in eager mode.

And nothing of it is left behind in the caches.
"""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import stn
from stn import FCTrunk, SpatialTransformer, sample
from stn.convolution import Conv2d
from stn.eager import cached, is_eager
from stn.localisation import Head
from stn.models import backbones
from stn.models.images import ImageSTCNN
from stn.models.mnist import average_pool, st_cnn, st_fcn

SHAPE, VOLUME = (3, 32, 32), (1, 4, 5, 6)
TRANSFORMS = {
    "attention": stn.Attention, "translation": lambda: stn.Translation(0.7), "affine": stn.Affine,
    "projective": stn.Projective, "tps": lambda: stn.ThinPlateSpline((3, 4)), "affine3d": stn.Affine3d,
}  # fmt: skip
NETWORKS = ["st_fcn", "st_cnn", "2xst_fcn", "birds"]
NAMES = [*TRANSFORMS, *NETWORKS]
TIGHT = {"atol": 1e-4, "rtol": 1e-4}


def tiny_classifier(weights: None = None) -> nn.Module:
    """As torchvision makes them: five strided convolutions as `features`, one of them depthwise."""
    layers: list[nn.Module] = []
    for before, after, groups in [(3, 4, 1), (4, 4, 4), (4, 4, 1), (4, 4, 1), (4, 4, 1)]:
        layers += [nn.Conv2d(before, after, 3, 2, 1, groups=groups), nn.BatchNorm2d(after), nn.ReLU6()]
    for layer in layers[::3]:
        nn.init.normal_(layer.weight, std=0.5)  # so that images differ at the end
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    return network


class Everything(nn.Module):
    """All transforms and networks in one module, so that each way out of eager mode is taken once."""

    def __init__(self) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {}
        for k, (name, make) in enumerate(TRANSFORMS.items()):
            transform = make()
            in_shape = VOLUME if transform.dims == 3 else SHAPE
            size = None if k % 2 else (3, 4, 5)[: transform.dims]
            padding = ("zeros", "border")[k % 2]
            parts[name] = SpatialTransformer(FCTrunk(in_shape, hidden=(5,)), transform, size, padding=padding)
        parts["st_fcn"] = st_fcn(SHAPE, transform=stn.Affine(), width=4)
        parts["st_cnn"] = st_cnn(SHAPE, transform=stn.ThinPlateSpline(), width=2)
        parts["2xst_fcn"] = st_fcn(SHAPE, transform=stn.Affine(), width=4, num_transformers=2, pool=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(backbones.ARCHITECTURES, "tiny", backbones.Architecture(tiny_classifier, ()))
            backbone = backbones.Backbone("tiny", weights="none", padding="same")
        parts["birds"] = ImageSTCNN(
            SHAPE,
            num_classes=3,
            backbone=backbone,
            transform=stn.Translation(0.5),
            num_transformers=2,
            crop=32,
            seen=16,
        )
        self.parts = nn.ModuleDict(parts)
        for module in self.modules():
            if isinstance(module, Head):  # theta depends on the image, as after some training
                nn.init.normal_(module.weight, std=0.3)

    def forward(self, image: Tensor, volume: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for name, part in self.parts.items():
            first, second = part(volume if name == "affine3d" else image)
            outputs[f"{name}/out"] = first
            outputs |= {f"{name}/{key}": one for key, one in second.items()} if name in NETWORKS else {}
            outputs |= {} if name in NETWORKS else {f"{name}/theta": second}
        return outputs


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return tuple(torch.rand(batch, *shape, generator=generator) for shape in (SHAPE, VOLUME))


@pytest.fixture(scope="module")
def everything() -> Everything:
    torch.manual_seed(0)
    return Everything().eval()


@pytest.fixture(scope="module")
def program(everything) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(everything, inputs(3), dynamic_shapes=({0: batch}, {0: batch}))


@pytest.fixture(scope="module")
def compiled(everything):
    module = torch.compile(everything, fullgraph=True, dynamic=True, backend="eager")
    return lambda image, volume: module(image, volume)


@pytest.fixture(scope="module")
def exported(program):
    return program.module()


@pytest.fixture(scope="module")
def traced(everything):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = torch.jit.trace(everything, inputs(3), strict=False, check_trace=False)
    fixed = {Path(one.filename).name for one in caught if issubclass(one.category, torch.jit.TracerWarning)}
    assert fixed <= {
        "backbones.py"
    }  # the birds' padding computes with the image's sides, which stay as they are
    return module


@pytest.fixture(scope="module")
def in_onnxruntime(everything, program):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> dict[str, Tensor]:
        names = [one.name for one in session.get_inputs()]
        found = session.run(None, dict(zip(names, map(Tensor.numpy, tensors), strict=True)))
        return dict(zip(everything(*inputs(2)), map(torch.tensor, found), strict=True))

    return run


# -- the same as in eager mode ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["compiled", "exported", "traced", "in_onnxruntime"])
def test_at_any_batch_size_it_is_as_in_eager_mode(way, name, everything, request):
    run = request.getfixturevalue(way)
    for batch in (3, 5) if way == "compiled" else (3, 5, 1):  # a batch of 1 is compiled anew
        with torch.no_grad():
            image, volume = inputs(batch)
            expected, found = everything(image, volume), run(image, volume)
        assert found.keys() == expected.keys()
        theta = expected[f"{name}/theta"]
        assert batch == 1 or theta.std(0).max() > 0.01  # it differs from image to image
        for key in expected:
            if key.startswith(f"{name}/"):
                torch.testing.assert_close(
                    found[key], expected[key], **TIGHT, msg=lambda m, k=key: f"{k}: {m}"
                )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_each_image_by_vmap_are_those_of_a_loop(name, everything):
    part = everything.parts[name]
    parameters = dict(part.named_parameters())
    images = inputs(3)[name == "affine3d"]

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        first, second = functional_call(part, values, (image[None],))
        return first.square().sum() + (second["warped"] if name in NETWORKS else second).square().sum()

    found = vmap(grad(loss), (None, 0))(parameters, images)
    for k, image in enumerate(images):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()), allow_unused=True)
        for key, one in zip(parameters, expected, strict=True):
            one = torch.zeros_like(parameters[key]) if one is None else one
            torch.testing.assert_close(found[key][k], one, atol=1e-4 * float(one.abs().max()) + 1e-6, rtol=0)


def test_a_compiled_network_trains_as_in_eager_mode():
    """Forward and backward as graphs; the classifier's first convolution has a gradient of its own in eager mode."""
    torch.manual_seed(0)
    model = st_cnn((1, 28, 28), transform=stn.Affine(), width=2)
    image = torch.rand(3, 1, 28, 28)
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        logits, aux = run(image)
        loss = logits.square().sum() + aux["warped"].square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# -- the finite check ------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_where_data_cannot_be_looked_at_a_point_that_is_not_finite_gives_nan(padding, value):
    grid = stn.regular_grid((4, 4)).repeat(3, 1, 1, 1)
    grid[1, 2, 3, 0] = value
    image = torch.rand(3, 1, 4, 4, requires_grad=True)
    out = torch.compile(sample, fullgraph=True, backend="eager")(image, grid, padding=padding)
    expected = image.detach().clone()
    expected[1, 0, 2, 3] = float("nan")
    torch.testing.assert_close(out, expected, equal_nan=True)
    alone = vmap(lambda one, points: sample(one[None], points[None], padding=padding)[0])(image, grid)
    torch.testing.assert_close(alone, expected, equal_nan=True)
    out.nansum().backward()
    assert image.grad.isfinite().all()
    with pytest.raises(FloatingPointError):
        sample(image, grid, padding=padding)


def test_the_fast_convolution_gradient_is_of_eager_mode_alone():
    layer, image = Conv2d(1, 2, 9), torch.rand(1, 1, 28, 28)
    assert "BandGradient" in type(layer(image.requires_grad_()).grad_fn).__name__
    found = grad(lambda x: layer(x).square().sum())(image)
    (expected,) = torch.autograd.grad(layer(image).square().sum(), image)
    torch.testing.assert_close(found, expected)


# -- what is kept ----------------------------------------------------------------------------------


def leave_eager(way: str, function) -> None:
    """Calls a function of no arguments in one of the ways in which a tensor is not an ordinary one."""
    if way == "fake":
        with FakeTensorMode(allow_non_fake_inputs=True):
            function()
    elif way == "inference":
        with torch.inference_mode():
            function()
    elif way == "grad":
        grad(lambda x: x * function().sum())(torch.ones(()))
    elif way == "functionalize":
        torch.func.functionalize(lambda x: x * function().sum())(torch.ones(()))
    elif way == "vmap":
        vmap(lambda x: x * function().sum())(torch.ones(2))
    elif way == "compile":
        torch.compile(lambda x: x * function().sum(), fullgraph=True, backend="aot_eager")(torch.ones(()))
    elif way == "make_fx":
        make_fx(lambda x: x * function().sum(), tracing_mode="fake", _allow_non_fake_inputs=True)(
            torch.ones(())
        )
    elif way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            function()
    elif way == "float64":
        torch.set_default_dtype(torch.float64)
        try:
            function()
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        assert way == "meta"
        with torch.device("meta"):
            function()


WAYS = [
    "fake", "inference", "grad", "functionalize", "vmap", "compile", "make_fx", "autocast", "float64", "meta",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_first_made_elsewhere_serves_eager_training(way):
    size = (3, 60 + WAYS.index(way))  # a size that no other test caches
    transforms = [stn.Attention(), stn.Affine(), stn.ThinPlateSpline((2, 3))]

    def grids() -> Tensor:
        thetas = [
            torch.zeros(1, one.num_params, dtype=torch.float32, device="cpu") + 0.5 for one in transforms
        ]
        return torch.cat([one.grid(theta, size) for one, theta in zip(transforms, thetas, strict=True)])

    leave_eager(way, grids)
    for transform in transforms:
        theta = transform.identity()[None].requires_grad_()
        grid = transform.grid(theta, size)
        assert type(grid) is Tensor and grid.dtype == torch.float32 and grid.device.type == "cpu"
        torch.testing.assert_close(grid[0], stn.regular_grid(size), atol=1e-5, rtol=0)
        grid.square().sum().backward()
        assert theta.grad.abs().sum() > 0
    leave_eager(way, grids)  # and what is cached by now is no obstacle there


@pytest.mark.parametrize("way", WAYS)
def test_a_transform_made_elsewhere_has_its_identity_in_float32(way):
    made = []
    leave_eager(way, lambda: made.append(stn.ThinPlateSpline((2, 2))) or torch.zeros(1))
    if way in ("inference", "autocast", "float64", "meta"):
        theta = made[0].identity()[None].clone().requires_grad_()
        assert theta.dtype == torch.float32
        made[0].grid(theta, (5, 6)).square().sum().backward()
        assert theta.grad.abs().sum() > 0


def test_the_cache_is_one_of_eager_mode():
    calls = []

    @cached
    def make(n: int) -> Tensor:
        calls.append(n)
        return torch.ones(n, device="cpu", dtype=torch.float32)

    assert make(3) is make(3) and calls == [3]
    with FakeTensorMode():
        assert type(make(3)) is not Tensor and not is_eager()
    assert len(calls) == 2 and type(make(3)) is Tensor and len(calls) == 2
    assert stn.regular_grid((2, 3)) is stn.regular_grid([2, 3], "cpu")


def test_average_pooling_is_traced_without_a_branch_on_the_image():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace", FutureWarning)
        traced = torch.jit.trace(lambda x: average_pool(x, 2), torch.rand(1, 1, 4, 4))
    image = torch.rand(2, 1, 5, 7)
    torch.testing.assert_close(traced(image), average_pool(image, 2))
