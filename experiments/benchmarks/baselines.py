"""What ours is compared with: networks and data pipelines as tutorials write them, torchvision and kornia."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from experiments.benchmarks.timing import Work
from stn.datasets.digits import load_digits
from stn.datasets.distortions import Clutter, paste_clutter, warp_affine, warp_quad
from stn.datasets.mnist import load_mnist
from stn.files import DataNotFoundError
from stn.sampler import sample
from stn.transforms import Affine, Projective, ThinPlateSpline, Transform

BATCH = 256
BILINEAR = InterpolationMode.BILINEAR
TRANSFORMS: dict[str, Transform] = {"affine": Affine(), "projective": Projective(), "tps": ThinPlateSpline()}


def lattice(line: Tensor) -> Tensor:
    """(n,) -> (n * n, 2), the points (x, y) row by row."""
    return torch.cartesian_prod(line, line).flip(1)


CONTROL = lattice(torch.linspace(-1, 1, 4))  # of the thin plate spline

# --- Networks: plain float32 modules, the way a first version is written -----------------------------------------


class PlainST(nn.Module):
    """An affine transformer in front of a network: affine_grid and grid_sample, as in PyTorch's own tutorial."""

    def __init__(self, localisation: nn.Module, network: nn.Module, pool: int) -> None:
        super().__init__()
        self.localisation, self.network, self.pool = localisation, network, pool

    def forward(self, x: Tensor) -> Tensor:
        theta = self.localisation(x).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.network(F.avg_pool2d(x, self.pool, ceil_mode=True) if self.pool > 1 else x)


def plain_network(model: str, side: int, width: int, pool: int = 1) -> nn.Module:
    """The twin of model=fcn|cnn|st_fcn|st_cnn (affine), its parameters in the same order."""
    if model == "fcn":
        return _connected(side * side, width, width, 10)
    if model == "cnn":
        left = -(-(-(-(side - 8) // 2) - 6) // 2)
        return nn.Sequential(
            nn.Conv2d(1, width, 9), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(width, width, 7), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(), nn.Linear(width * left * left, 10),
        )  # fmt: skip
    behind = plain_network(model.removeprefix("st_"), -(-side // pool), width)
    if model == "st_fcn":
        return PlainST(_connected(side * side, 32, 32, 32, 6), behind, pool)
    left = -(-(-(-side // 2) - 4) // 2) - 4
    localisation = nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(20, 20, 5), nn.ReLU(), *_connected(20 * left * left, 20, 6),
    )  # fmt: skip
    return PlainST(localisation, behind, pool)


def _connected(first: int, *widths: int) -> nn.Sequential:
    """Fully connected layers, with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((first, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copies in order of definition.   raises: ValueError where they are not the same network."""
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        if a.shape != b.shape:
            raise ValueError(f"The twin differs: {tuple(a.shape)} and {tuple(b.shape)}.")
        b.data.copy_(a.data)


def plain_step(model: str, side: int, width: int, pool: int = 1, experiment: str | None = None) -> Work:
    """A training step of 256 images in eager float32.   experiment: whose torchvision pipeline feeds it, or None."""
    network = plain_network(model, side, width, pool)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    if experiment is not None:
        return epoch_of(TorchvisionDigits(experiment, EPOCH * BATCH, "torchvision"), step, EPOCH)
    batch = torch.rand(BATCH, 1, side, side), torch.randint(10, (BATCH,))
    return Work(lambda: step(batch))


# --- Data: a Dataset that distorts one digit at a time with torchvision, and a DataLoader with two workers --------

EPOCH = 32  # batches of an epoch of `plain_step`


def epoch_of(data: Dataset[Any], use: Callable[[Any], object], units: int) -> Work:
    """Passes over a data set, in batches of 256, each with new worker processes.

    The workers start before the clock, and have ended with the pass: an epoch takes no batch that it did not make,
    makes none that it does not take, and leaves nothing running.
    """
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=2)
    passes: list[Iterator[Any]] = []

    def epoch() -> None:
        for batch in passes.pop():
            use(batch)

    return Work(epoch, units, prepare=lambda: passes.append(iter(loader)))


def torchvision_pipeline(experiment: str, size: int, kind: str) -> Work:
    """An epoch of `size` digits; a unit is an image."""
    return epoch_of(TorchvisionDigits(experiment, size, kind), lambda batch: None, size)


def has_mnist() -> bool:
    try:
        load_mnist(download=False)
    except DataNotFoundError:
        return False
    return True


def digits() -> Tensor:
    """MNIST's training digits, else those that come with scikit-learn: uint8, (n, 1, 28, 28)."""
    return (load_mnist(download=False) if has_mnist() else load_digits()).train_images


class Rotate:
    """R, and what every distortion has: its parameters, and the function of them by torchvision and by ours.

    The parameters of R and RTS: angle, degrees, clockwise; scale; x, y, pixels.
    """

    canvas = 28

    def draw(self, images: Tensor) -> Any:
        """The random parameters for one digit.   images: the training set."""
        return random.uniform(-90, 90), 1.0, 0.0, 0.0

    def theirs(self, image: Any, drawn: Any) -> Any:
        """image: (1, 28, 28).   drawn: its parameters."""
        return tv.rotate(image, -drawn[0], BILINEAR)

    def ours(self, images: Tensor, drawn: list[Any]) -> Tensor:
        """images: (B, 1, 28, 28).   drawn: the parameters of each."""
        return warp_affine(images, self.canvas, *torch.tensor(drawn).unbind(1))


class RotateTranslateScale(Rotate):
    """RTS: padded to the canvas, then turned, scaled and moved."""

    canvas = 42

    def draw(self, images: Tensor) -> Any:
        scale = random.uniform(0.7, 1.2)
        room = (42 - 28 * scale) / 2
        return random.uniform(-45, 45), scale, random.uniform(-room, room), random.uniform(-room, room)

    def theirs(self, image: Any, drawn: Any) -> Any:
        angle, scale, x, y = drawn
        return tv.affine(tv.pad(image, [7]), angle, [x, y], scale, [0.0, 0.0], BILINEAR)


@dataclass
class Perspective(Rotate):
    """P. Its parameters: where the four corners go, pixels from the upper left one.   std: of the moves, pixels."""

    std: float = 5.0

    def draw(self, images: Tensor) -> Any:
        half = 14 * random.uniform(0.75, 1.0)
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return [[14 + sign * half + random.gauss(0, self.std) for sign in corner] for corner in signs]

    def theirs(self, image: Any, drawn: Any) -> Any:
        return tv.perspective(image, [[0, 0], [28, 0], [28, 28], [0, 28]], drawn, BILINEAR)

    def ours(self, images: Tensor, drawn: list[Any]) -> Tensor:
        return warp_quad(images, torch.tensor(drawn) / 14 - 1)


class Elastic(Rotate):
    """E. Its parameters: (16, 2), where the points of a regular 4x4 grid come from."""

    def draw(self, images: Tensor) -> Any:
        return (CONTROL + torch.randn(16, 2) * 3 / 28) / random.uniform(0.75, 1.0)

    def theirs(self, image: Any, drawn: Any) -> Any:
        from scipy.interpolate import RBFInterpolator

        points = lattice((torch.arange(28, dtype=torch.float64) * 2 + 1) / 28 - 1).numpy()
        spline = RBFInterpolator(CONTROL.double(), drawn.double(), kernel="thin_plate_spline", degree=1)
        moved = torch.from_numpy(spline(points) - points).float().view(1, 28, 28, 2)
        return tv.elastic(image, moved, BILINEAR)

    def ours(self, images: Tensor, drawn: list[Any]) -> Tensor:
        return sample(images, TRANSFORMS["tps"].grid(torch.stack(drawn).flatten(1), (28, 28)))


class TranslateClutter(Rotate):
    """TC. Its parameters: the digit's left and top, and (patch (6, 6), row, column) of each patch."""

    def draw(self, images: Tensor) -> Any:
        left, top = random.randint(0, 32), random.randint(0, 32)
        patches: list[tuple[Tensor, int, int]] = []
        while len(patches) < 6:
            row, column = random.randint(0, 54), random.randint(0, 54)
            if top - 6 < row < top + 28 and left - 6 < column < left + 28:
                continue  # it would touch the digit's box
            other = images[random.randrange(len(images)), 0]
            y, x = random.randint(0, 22), random.randint(0, 22)
            patches.append((other[y : y + 6, x : x + 6].float() / 255, row, column))
        return left, top, patches

    def theirs(self, image: Any, drawn: Any) -> Any:
        left, top, patches = drawn
        out = torch.zeros(1, 60, 60)
        for patch, row, column in patches:  # the brighter pixel stays
            out = torch.maximum(out, tv.pad(patch[None], [column, row, 54 - column, 54 - row]))
        out[:, top : top + 28, left : left + 28] = image
        return out

    def ours(self, images: Tensor, drawn: list[Any]) -> Tensor:
        left, top, patches = zip(*drawn, strict=True)
        cut = torch.stack([torch.stack([patch for patch, _, _ in those]) for those in patches])
        row, column = torch.tensor([[place for _, *place in those] for those in patches]).unbind(2)
        return paste_clutter(images, Clutter(torch.tensor(left), torch.tensor(top), row, column, cut), 60)


DISTORTIONS: dict[str, Rotate] = {
    "mnist_r": Rotate(),
    "mnist_rts": RotateTranslateScale(),
    "mnist_p": Perspective(),
    "mnist_e": Elastic(),
    "mnist_tc": TranslateClutter(),
}


class TorchvisionDigits(Dataset[tuple[Tensor, int]]):
    """Distorted digits, one at a time; every label is 0.

    Args:
        experiment: A key of `DISTORTIONS`.
        size: Of the data set; the digits are repeated or cut.
        kind: "torchvision", PIL digits through a v2.Compose as torchvision's guides build it; "functional", float
            tensors straight into its functions; "PIL", R only: the PIL image is turned in bytes, then made a tensor.
    """

    def __init__(self, experiment: str, size: int, kind: str) -> None:
        self.images, self.size, self.kind = digits(), size, kind
        self.pixels = self.images.squeeze(1).numpy()
        self.distortion = DISTORTIONS[experiment]
        affine = v2.RandomAffine(45, translate=(0.15, 0.15), scale=(0.7, 1.2), interpolation=BILINEAR)
        own = {"mnist_r": [v2.RandomRotation(90, BILINEAR)], "mnist_rts": [v2.Pad(7), affine]}
        distort = own.get(experiment, [v2.Lambda(self.distort)])
        to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        self.compose = v2.Compose([*distort, *to_tensor] if kind == "PIL" else [*to_tensor, *distort])

    def distort(self, image: Tensor) -> Tensor:
        return self.distortion.theirs(image, self.distortion.draw(self.images))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index %= len(self.images)
        if self.kind == "functional":
            return self.distort(self.images[index].float() / 255), 0
        return self.compose(Image.fromarray(self.pixels[index])), 0


# --- kornia, an optional extra ------------------------------------------------------------------------------------


def kornia_augment() -> Any:
    """kornia's batched RandomAffine, for padded digits (B, 1, 42, 42)."""
    from kornia.augmentation import RandomAffine

    return RandomAffine(45.0, translate=(0.15, 0.15), scale=(0.7, 1.2), align_corners=False, p=1.0)


def kornia_affine() -> Work:
    """Its pipeline, made as ours from uint8 digits drawn at random."""
    augment, pixels = kornia_augment(), digits()

    def call() -> Tensor:
        drawn = pixels[torch.randint(len(pixels), (BATCH,))].float() / 255
        return augment(F.pad(drawn, (7, 7, 7, 7)))

    return Work(call, BATCH)


def kornia_warp(transform: str, image: Tensor, theta: Tensor) -> Tensor:
    """image: (B, C, H, W).   theta: as ours.   returns: the warped image, of the same size.

    kornia's get_tps_transform puts its kernels on the moved points, which is another spline than Bookstein's; so the
    weights here come from the same system with the kernels on the regular grid, solved as kornia solves it.
    """
    from kornia.geometry.transform import homography_warp, warp_image_tps

    if transform == "tps":
        control = CONTROL.expand(len(image), -1, -1)
        weights = _spline_weights(control, theta.unflatten(1, (-1, 2)))
        return warp_image_tps(image, control, weights[:, :-3], weights[:, -3:])
    last = theta.new_tensor([0.0, 0.0, 1.0] if transform == "affine" else [1.0]).expand(len(theta), -1)
    return homography_warp(
        image, torch.cat([theta, last], 1).view(-1, 3, 3), (image.shape[-2], image.shape[-1])
    )


def _spline_weights(control: Tensor, moved: Tensor) -> Tensor:
    """control, moved: (B, K, 2).   returns: (B, K + 3, 2), for every image, as kornia does."""
    squared = torch.cdist(control, control).square()
    kernel = 0.5 * squared * (squared + 1e-8).log()
    p = F.pad(control, (1, 0), value=1.0)  # (B, K, 3)
    zeros = control.new_zeros(len(control), 3, 3)
    system = torch.cat([torch.cat([kernel, p], -1), torch.cat([p.mT, zeros], -1)], 1)
    return torch.linalg.solve(system, torch.cat([moved, zeros[:, :, :2]], 1))


def warp_inputs(transform: str, channels: int, batch: int) -> tuple[Tensor, Tensor]:
    """Random images (B, C, 28, 28), and theta near the identity."""
    family = TRANSFORMS[transform]
    theta = family.identity() + 0.05 * torch.randn(batch, family.num_params)
    return torch.rand(batch, channels, 28, 28), theta


def our_warp(transform: str, image: Tensor, theta: Tensor) -> Tensor:
    return sample(image, TRANSFORMS[transform].grid(theta, (28, 28)))


def warp_step(transform: str, channels: int, batch: int, kornia: bool) -> Work:
    """Grid and sampling of 28x28 images, forward and backward into image and theta; a unit is an image.

    kornia: theirs, else ours.
    """
    inputs = [x.requires_grad_() for x in warp_inputs(transform, channels, batch)]
    upstream = torch.rand(batch, channels, 28, 28)
    warp = partial(kornia_warp if kornia else our_warp, transform)
    return Work(lambda: torch.autograd.grad(warp(*inputs), inputs, upstream), batch)
