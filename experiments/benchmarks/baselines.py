"""What ours is compared with: networks and data pipelines as tutorials write them, torchvision and kornia."""

import random
from collections.abc import Callable, Iterator
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
from stn.datasets.mnist import load_mnist
from stn.files import DataNotFoundError
from stn.sampler import sample
from stn.transforms import Affine, Projective, ThinPlateSpline, Transform

# --- Networks: plain float32 modules, the way a first version is written -----------------------------------------


class PlainCNN(nn.Module):
    """The paper's CNN: two convolutions, each pooled, and a classifier."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 9)
        self.conv2 = nn.Conv2d(width, width, 7)
        left = -(-(-(-(side - 8) // 2) - 6) // 2)
        self.fc = nn.Linear(width * left * left, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, ceil_mode=True)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, ceil_mode=True)
        return self.fc(x.flatten(1))


class PlainFCN(nn.Module):
    """The paper's fully connected network."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(side * side, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class PlainST(nn.Module):
    """An affine transformer in front of a network: affine_grid and grid_sample, as in PyTorch's own tutorial."""

    def __init__(self, localisation: nn.Module, features: int, network: nn.Module, pool: int) -> None:
        super().__init__()
        self.localisation = localisation
        self.theta = nn.Linear(features, 6)
        self.network = network
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(self.localisation(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.network(F.avg_pool2d(x, self.pool, ceil_mode=True) if self.pool > 1 else x)


def plain_network(model: str, side: int, width: int, pool: int = 1) -> nn.Module:
    """The twin of model=fcn|cnn|st_fcn|st_cnn (affine), its parameters in the same order."""
    inner = -(-side // pool)
    if model == "fcn":
        return PlainFCN(side, width)
    if model == "cnn":
        return PlainCNN(side, width)
    if model == "st_fcn":
        trunk = nn.Sequential(nn.Flatten())
        for before in (side * side, 32, 32):
            trunk.append(nn.Linear(before, 32)).append(nn.ReLU())
        return PlainST(trunk, 32, PlainFCN(inner, width), pool)
    left = -(-(-(-side // 2) - 4) // 2) - 4
    trunk = nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(20, 20, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20 * left * left, 20), nn.ReLU(),
    )  # fmt: skip
    return PlainST(trunk, 20, PlainCNN(inner, width), pool)


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copies in order of definition.   raises: ValueError where they are not the same network."""
    pairs = list(zip(source.parameters(), target.parameters(), strict=True))
    with torch.no_grad():
        for a, b in pairs:
            if a.shape != b.shape:
                raise ValueError(f"The twin differs: {tuple(a.shape)} and {tuple(b.shape)}.")
            b.copy_(a)


def plain_step(model: str, side: int, width: int, pool: int = 1, experiment: str | None = None) -> Work:
    """A training step of 256 images in eager float32; a unit is a step.

    Args:
        model, side, width, pool: As for `plain_network`.
        experiment: Whose torchvision pipeline feeds it; None for one batch for ever.
    """
    network = plain_network(model, side, width, pool)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    if experiment is not None:
        return epoch_of(TorchvisionDigits(experiment, EPOCH * 256, "torchvision"), step, EPOCH)
    batch = torch.rand(256, 1, side, side), torch.randint(10, (256,))
    return Work(lambda: step(batch))


# --- Data: a Dataset that distorts one digit at a time with torchvision, and a DataLoader with two workers --------

EPOCH = 32  # batches of an epoch of `plain_step`


def epoch_of(data: Dataset[Any], use: Callable[[Any], object], units: int) -> Work:
    """Passes over a data set, in batches of 256, each with new worker processes.

    The workers start before the clock, and have ended with the pass: an epoch takes no batch that it did not make,
    makes none that it does not take, and leaves nothing running.
    """
    loader = DataLoader(data, batch_size=256, shuffle=True, num_workers=2)
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


def tv_rotate(image: Tensor, angle: float) -> Tensor:
    """angle: degrees, clockwise.   image: (1, H, W)."""
    return tv.rotate(image, -angle, InterpolationMode.BILINEAR)


def tv_affine(image: Tensor, canvas: int, angle: float, scale: float, x: float, y: float) -> Tensor:
    """Padded to the canvas, then turned, scaled and moved by (x, y) pixels."""
    padded = tv.pad(image, [(canvas - image.shape[-1]) // 2])
    return tv.affine(padded, angle, [x, y], scale, [0.0, 0.0], InterpolationMode.BILINEAR)


def tv_perspective(image: Tensor, corners: list[list[float]]) -> Tensor:
    """corners: where the four corners go, pixels from the upper left one."""
    n = image.shape[-1]
    return tv.perspective(image, [[0, 0], [n, 0], [n, n], [0, n]], corners, InterpolationMode.BILINEAR)


def tv_spline(image: Tensor, source: Tensor) -> Tensor:
    """source: (16, 2), where the points of a regular 4x4 grid come from; SciPy's thin plate spline between them."""
    import numpy as np
    from scipy.interpolate import RBFInterpolator

    n = image.shape[-1]
    line = np.linspace(-1, 1, 4)
    control = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    centres = (np.arange(n) * 2 + 1) / n - 1
    points = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
    spline = RBFInterpolator(control, source.double().numpy(), kernel="thin_plate_spline", degree=1)
    moved = torch.from_numpy(spline(points) - points).float().view(1, n, n, 2)
    return tv.elastic(image, moved, InterpolationMode.BILINEAR)


def tv_clutter(
    image: Tensor, canvas: int, left: int, top: int, patches: list[tuple[Tensor, int, int]]
) -> Tensor:
    """patches: (patch (6, 6), row, column) each; the brighter pixel stays, then the digit's box goes on top."""
    n = image.shape[-1]
    out = torch.zeros(1, canvas, canvas)
    for patch, row, column in patches:
        size = patch.shape[-1]
        padded = tv.pad(patch[None], [column, row, canvas - size - column, canvas - size - row])
        out = torch.maximum(out, padded)
    out[:, top : top + n, left : left + n] = image
    return out


def _draw_rotate(image: Tensor, images: Tensor) -> Tensor:
    return tv_rotate(image, random.uniform(-90, 90))


def _draw_rts(image: Tensor, images: Tensor) -> Tensor:
    scale = random.uniform(0.7, 1.2)
    room = (42 - 28 * scale) / 2
    x, y = random.uniform(-room, room), random.uniform(-room, room)
    return tv_affine(image, 42, random.uniform(-45, 45), scale, x, y)


def _draw_perspective(image: Tensor, images: Tensor) -> Tensor:
    half = 14 * random.uniform(0.75, 1.0)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [[14 + sx * half + random.gauss(0, 5), 14 + sy * half + random.gauss(0, 5)] for sx, sy in signs]
    return tv_perspective(image, corners)


def _draw_spline(image: Tensor, images: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, 4)
    control = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    return tv_spline(image, (control + torch.randn(16, 2) * 3 / 28) / random.uniform(0.75, 1.0))


def _draw_clutter(image: Tensor, images: Tensor) -> Tensor:
    left, top = random.randint(0, 32), random.randint(0, 32)
    patches: list[tuple[Tensor, int, int]] = []
    while len(patches) < 6:
        row, column = random.randint(0, 54), random.randint(0, 54)
        if top - 6 < row < top + 28 and left - 6 < column < left + 28:
            continue  # it would touch the digit's box
        other = images[random.randrange(len(images)), 0]
        y, x = random.randint(0, 22), random.randint(0, 22)
        patches.append((other[y : y + 6, x : x + 6].float() / 255, row, column))
    return tv_clutter(image, 60, left, top, patches)


DRAWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mnist_r": _draw_rotate,
    "mnist_rts": _draw_rts,
    "mnist_p": _draw_perspective,
    "mnist_e": _draw_spline,
    "mnist_tc": _draw_clutter,
}
KINDS = ("torchvision", "functional", "PIL")


class TorchvisionDigits(Dataset[tuple[Tensor, int]]):
    """Distorted digits, one at a time; every label is 0.

    Args:
        experiment: A key of `DRAWS`.
        size: Of the data set; the digits are repeated or cut.
        kind: "torchvision", PIL digits through a v2.Compose as torchvision's guides build it; "functional", float
            tensors straight into its functions; "PIL", R only: the PIL image is turned in bytes, then made a tensor.
    """

    def __init__(self, experiment: str, size: int, kind: str) -> None:
        self.images, self.size = digits(), size
        self.pixels = self.images.squeeze(1).numpy()
        self.draw, self.functional = DRAWS[experiment], kind == "functional"
        self.compose = None if self.functional else _compose(experiment, kind, self.images)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index %= len(self.images)
        if self.compose is None:
            return self.draw(self.images[index].float() / 255, self.images), 0
        return self.compose(Image.fromarray(self.pixels[index])), 0


class Distort(v2.Transform):
    """One of `DRAWS` as a torchvision transform."""

    def __init__(self, experiment: str, images: Tensor) -> None:
        super().__init__()
        self.draw, self.images = DRAWS[experiment], images

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self.draw(inpt, self.images)


def _compose(experiment: str, kind: str, images: Tensor) -> Callable[[Any], Tensor]:
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    turn = v2.RandomRotation(90, InterpolationMode.BILINEAR)
    if kind == "PIL":
        return v2.Compose([turn, *to_tensor])
    if experiment == "mnist_r":
        return v2.Compose([*to_tensor, turn])
    if experiment == "mnist_rts":
        bilinear = InterpolationMode.BILINEAR
        affine = v2.RandomAffine(45, translate=(0.15, 0.15), scale=(0.7, 1.2), interpolation=bilinear)
        return v2.Compose([*to_tensor, v2.Pad(7), affine])
    return v2.Compose([*to_tensor, Distort(experiment, images)])


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "affine": Affine,
    "projective": Projective,
    "tps": ThinPlateSpline,
}

# --- kornia, an optional extra ------------------------------------------------------------------------------------


def kornia_affine(batch: int = 256) -> Work:
    """kornia's batched RandomAffine on padded digits, made as ours are from uint8 digits drawn at random."""
    from kornia.augmentation import RandomAffine

    augment = RandomAffine(45.0, translate=(0.15, 0.15), scale=(0.7, 1.2), align_corners=False, p=1.0)
    pixels = digits()

    def call() -> Tensor:
        drawn = pixels[torch.randint(len(pixels), (batch,))].float() / 255
        return augment(F.pad(drawn, (7, 7, 7, 7)))

    return Work(call, batch)


def kornia_warp(transform: str, image: Tensor, theta: Tensor) -> Tensor:
    """image: (B, C, H, W).   theta: as ours.   returns: the warped image, of the same size.

    kornia's get_tps_transform puts its kernels on the moved points, which is another spline than Bookstein's; so the
    weights here come from the same system with the kernels on the regular grid, solved as kornia solves it.
    """
    from kornia.geometry.transform import homography_warp, warp_image_tps

    if transform == "tps":
        line = torch.linspace(-1, 1, 4, device=theta.device)
        control = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(1, -1, 2)
        control = control.expand(len(image), -1, -1)
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
    ones = torch.ones_like(control[..., :1])
    p = torch.cat([ones, control], -1)  # (B, K, 3)
    zeros = control.new_zeros(len(control), 3, 3)
    system = torch.cat([torch.cat([kernel, p], -1), torch.cat([p.mT, zeros], -1)], 1)
    return torch.linalg.solve(system, torch.cat([moved, zeros[:, :, :2]], 1))


def warp_step(transform: str, channels: int, batch: int, kornia: bool) -> Work:
    """Grid and sampling of 28x28 images, forward and backward into image and theta; a unit is an image.

    kornia: theirs, else ours.
    """
    family = TRANSFORMS[transform]()
    image = torch.rand(batch, channels, 28, 28, requires_grad=True)
    theta = (family.identity() + 0.05 * torch.randn(batch, family.num_params)).requires_grad_()
    upstream = torch.rand(batch, channels, 28, 28)

    def call() -> None:
        out = kornia_warp(transform, image, theta) if kornia else sample(image, family.grid(theta, (28, 28)))
        torch.autograd.grad(out, (image, theta), upstream)

    return Work(call, batch)
