"""Shapes and dtypes of the library's public functions, checked at run time against annotations (jaxtyping, beartype).

The annotated signatures are here, not in the library, which needs neither package. Each wrapper calls the function.
"""
# ruff: noqa: F722, F821 (the annotations are shapes, not Python)

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Float32, TypeCheckError, UInt8, jaxtyped
from torch import Tensor

import stn
from stn.datasets import colocalisation, distortions, volumes
from stn.models.colocalisation import Localiser, boxes
from stn.models.images import tiling
from stn.models.mnist import average_pool, cnn, fcn, st_cnn, st_fcn
from stn.models.volumes import cnn_3d, st_cnn_3d

checked = jaxtyped(typechecker=beartype)
TRANSFORMS = {
    "attention": stn.Attention, "translation": stn.Translation, "affine": stn.Affine, "projective": stn.Projective,
    "tps": stn.ThinPlateSpline, "tps_2x5": lambda: stn.ThinPlateSpline((2, 5)),
}  # fmt: skip
SIZES = [(1, 1), (5, 8), (28, 28)]


@checked
def sample(image: Float[Tensor, "B C H W"], grid: Float[Tensor, "B h w 2"]) -> Float[Tensor, "B C h w"]:
    out = stn.sample(image, grid)
    assert out.dtype == image.dtype
    return out


@checked
def grid(transform, theta: Float[Tensor, "B P"], h: int, w: int) -> Float[Tensor, "B {h} {w} 2"]:
    out = transform.grid(theta, (h, w))
    assert out.dtype == (torch.float64 if theta.dtype == torch.float64 else torch.float32)
    return out


@checked
def map_points(
    transform, theta: Float[Tensor, "B P"], points: Float[Tensor, "N 2"]
) -> Float[Tensor, "B N 2"]:
    return transform.map_points(theta, points)


@checked
def identity(transform) -> Float32[Tensor, "{transform.num_params}"]:
    return transform.identity()


@checked
def in_frame(points: Float[Tensor, "*A h w 2"]) -> Float32[Tensor, "*A"]:
    return stn.in_frame(points)


@checked
def regular_grid(h: int, w: int) -> Float32[Tensor, "{h} {w} 2"]:
    return stn.regular_grid((h, w))


@checked
def transformer(
    module, image: Float32[Tensor, "B C H W"]
) -> tuple[Float32[Tensor, "B C h w"], Float32[Tensor, "B P"]]:
    return module(image)


@checked
def parallel(
    module, image: Float32[Tensor, "B C H W"]
) -> tuple[Float32[Tensor, "B K C h w"], Float32[Tensor, "B K {module.transform.num_params}"]]:
    return module(image)


@checked
def network(
    module, image: Float32[Tensor, "B C *S"], classes: int
) -> tuple[Float32[Tensor, "B {classes}"], dict[str, Tensor]]:
    return module(image)


@checked
def aux(
    module,
    theta: Float32[Tensor, "B K {module.transformers.transform.num_params}"],
    warped: Float32[Tensor, "B K C *s"],
) -> None:
    assert theta.shape[1] == module.transformers.count


@checked
def distorted(
    distort, images: Float[Tensor, "B 1 H H"] | UInt8[Tensor, "B 1 H H"], s: int
) -> Float[Tensor, "B 1 {s} {s}"]:
    out = distort(images, torch.Generator().manual_seed(0))
    assert out.dtype == (torch.float64 if images.dtype == torch.float64 else torch.float32)
    return out


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transforms_and_sampler(name, size, batch, dtype):
    transform = TRANSFORMS[name]()
    theta = identity(transform).to(dtype).expand(batch, -1)
    points = grid(transform, theta, *size)
    assert (
        map_points(transform, theta, regular_grid(*size).flatten(0, 1).to(dtype)).shape[1]
        == size[0] * size[1]
    )
    in_frame(points)
    sample(torch.rand(batch, 2, 6, 9, dtype=dtype), points)


@checked
def warped_volume(
    volume: Float32[Tensor, "B C D H W"], theta: Float32[Tensor, "B 12"], d: int, h: int, w: int
) -> Float32[Tensor, "B C {d} {h} {w}"]:
    return stn.sample(volume, stn.Affine3d().grid(theta, (d, h, w)))


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 5, 6)])
def test_volumes_are_sampled(size):
    warped_volume(torch.rand(2, 1, 3, 7, 8), stn.Affine3d().identity().expand(2, -1), *size)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("out_size", [None, (5, 7)])
def test_transformers(name, out_size):
    transform, image = TRANSFORMS[name](), torch.rand(2, 3, 28, 30)
    trunk = stn.FCTrunk((3, 28, 30))
    transformer(stn.SpatialTransformer(trunk, transform, out_size), image)
    starts = transform.identity().expand(3, -1)
    networks = [
        stn.LocalisationNetwork(trunk, transform, starts=starts),
        stn.LocalisationNetwork(trunk, transform),
    ]
    warped, _ = parallel(stn.ParallelTransformers(networks, transform, out_size), image)
    assert warped.shape[1] == 4


@pytest.mark.parametrize("make", [fcn, cnn, st_fcn, st_cnn])
@pytest.mark.parametrize(("in_shape", "pool"), [((1, 28, 28), 1), ((2, 42, 44), 2)])
def test_networks_of_digits(make, in_shape, pool):
    image = torch.rand(2, *in_shape)
    if make in (fcn, cnn):
        network(make(in_shape, num_classes=7, width=3), image, 7)
        return
    for name in ("affine", "projective", "tps"):
        options = {"transform": TRANSFORMS[name](), "num_transformers": 2, "pool": pool}
        module = make(in_shape, num_classes=7, width=3, **options)
        aux(module, **network(module, image, 7)[1])
    average_pool(image, pool)


def test_networks_of_volumes_and_the_localiser():
    volume = torch.rand(2, 1, 32, 32, 32)
    network(cnn_3d((1, 32, 32, 32), width=2), volume, 10)
    module = st_cnn_3d((1, 32, 32, 32), transform=stn.Affine3d(), width=2)
    aux(module, **network(module, volume, 10)[1])
    localiser = Localiser((1, 84, 84), transform=stn.Attention())
    aux(localiser, **network(localiser, torch.rand(2, 1, 84, 84), 4)[1])
    assert boxes(torch.rand(5, 3), 84).shape == (5, 4)


@checked
def starts(transform, count: int) -> Float32[Tensor, "{count} {transform.num_params}"]:
    return tiling(transform, count)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["attention", "translation", "affine"])
def test_starts(count, name):
    starts(TRANSFORMS[name](), count)


@checked
def solids(images: Float[Tensor, "B 1 H H"] | UInt8[Tensor, "B 1 H H"]) -> Float[Tensor, "B 1 16 16 16"]:
    return volumes.extrude(images, torch.Generator().manual_seed(0), canvas=16)


@checked
def placed(images: Float32[Tensor, "B 1 H H"]) -> tuple[Float32[Tensor, "B 1 84 84"], Float32[Tensor, "B 4"]]:
    return colocalisation.place_digit(images, torch.Generator().manual_seed(0), source=images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_distortions(dtype, batch):
    images = (255 * torch.rand(batch, 1, 28, 28)).to(dtype) / (1 if dtype == torch.uint8 else 255)
    images = images.to(dtype)
    for distort, side in (
        (distortions.rotate, 28),
        (distortions.rotate_translate_scale, 42),
        (distortions.project, 28),
        (distortions.elastic, 28),
        (lambda x, g: distortions.translate_clutter(x, g, source=images), 60),
    ):
        distorted(distort, images, side)
    solids(images)
    placed(images.float())


def test_a_wrong_shape_is_seen():
    with pytest.raises(TypeCheckError):
        sample(torch.rand(2, 1, 4, 4), torch.zeros(3, 4, 4, 2))

    @checked
    def wrong(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return image.mT[..., :-1]

    with pytest.raises(TypeCheckError):
        wrong(torch.rand(2, 1, 4, 5))
