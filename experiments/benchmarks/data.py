"""Suites distort and sampler: our data pipeline and our sampler against libraries."""

from functools import partial

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from experiments.benchmarks import baselines
from experiments.benchmarks.steps import BATCH, distortion_pipeline
from experiments.benchmarks.suite import Row, SkippedError, comparison, has_kornia, largest_difference
from experiments.benchmarks.timing import in_turn
from stn.datasets import distortions
from stn.sampler import sample


def distort(rounds: int) -> list[Row]:
    """Distort: fresh training images per second, batches of 256 from uint8 digits.

    torchvision: PIL digits through a `v2.Compose` (ToImage, ToDtype, the distortion) in a Dataset, and a DataLoader
    with two workers. R is `v2.RandomRotation`, RTS `v2.RandomAffine`; the others are a `v2.Transform` around
    `v2.functional.perspective`, `elastic` (its field from SciPy's thin plate spline) and `pad`, since v2 has none that
    does the same. Functional: float tensors straight into these functions, a lower bound of the Python around them.
    PIL: the image is turned in bytes first, which is not the same to the last digit.

    kornia: its batched RandomAffine on padded digits. Ours: `TrainStream.next_batch()`, two threads.

    Largest difference: of a pixel, in [0, 1], for the same parameters on 256 digits. Ours turns, scales and pastes by
    the same formulas everywhere, so these are float32 rounding.
    """
    cases: list[
        tuple[str, str, float | None, int]
    ] = [  # distortion, against, at least so many times as fast, digits in an epoch of theirs
        ("R", "torchvision", 30.0, 4096),
        ("RTS", "torchvision", 30.0, 4096),
        ("P", "torchvision", 30.0, 4096),
        ("E", "torchvision", 100.0, 2048),
        ("TC", "torchvision", 30.0, 4096),
        ("R", "functional", None, 8192),
        ("RTS", "functional", None, 8192),
        ("P", "functional", None, 8192),
        ("R", "PIL", None, 8192),
    ]
    if has_kornia():
        cases.append(("RTS", "kornia", 1.5, 0))
    rows = []
    for case, kind, at_least, size in cases:
        experiment = f"mnist_{case.lower()}"
        difference = check_kornia_affine() if kind == "kornia" else check_distortion(experiment, kind)
        theirs = partial(baselines.torchvision_pipeline, experiment, size, kind)
        sides = {"ours": partial(distortion_pipeline, experiment)}
        times = in_turn(
            sides | {kind: baselines.kornia_affine if kind == "kornia" else theirs}, rounds=rounds
        )
        rows.append(comparison(case, *times, at_least=at_least, difference=difference, rate=True))
    return rows


def check_distortion(experiment: str, kind: str) -> float:
    """The largest difference between ours and torchvision's for the same parameters. raises: RuntimeError if large."""
    generator = torch.Generator().manual_seed(1)
    images = baselines.digits()[:BATCH].float() / 255
    draw = torch.rand(BATCH, 4, generator=generator)
    angle, scale = 180 * draw[:, 0] - 90, 0.7 + 0.5 * draw[:, 1]
    zero, one = torch.zeros(BATCH), torch.ones(BATCH)
    noise = torch.randn(BATCH, 32, generator=generator)
    if experiment == "mnist_r":
        ours = distortions.warp_affine(images, 28, angle, one, zero, zero)
        if kind == "PIL":
            turned = [
                tv.pil_to_tensor(tv.rotate(tv.to_pil_image(i), -float(a), InterpolationMode.BILINEAR)) / 255
                for i, a in zip(images, angle, strict=True)
            ]
            return float((ours - torch.stack(turned)).abs().mean())
        theirs = [baselines.tv_rotate(i, float(a)) for i, a in zip(images, angle, strict=True)]
    elif experiment == "mnist_rts":
        room = (42 - 28 * scale) / 2
        x, y = room * (2 * draw[:, 2] - 1), room * (2 * draw[:, 3] - 1)
        ours = distortions.warp_affine(images, 42, angle / 2, scale, x, y)
        poses = torch.stack([angle / 2, scale, x, y], 1).tolist()
        theirs = [baselines.tv_affine(i, 42, *pose) for i, pose in zip(images, poses, strict=True)]
    elif experiment == "mnist_p":
        unit = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        # Small moves: torchvision shows a mirror image beyond the horizon, where ours is black.
        corners = unit * (0.75 + 0.25 * draw[:, 0])[:, None, None] + noise[:, :8].view(-1, 4, 2) / 14
        ours = distortions.warp_quad(images, corners)
        moved = (14 * corners + 14).tolist()
        theirs = [baselines.tv_perspective(i, c) for i, c in zip(images, moved, strict=True)]
    elif experiment == "mnist_e":
        spline = baselines.ThinPlateSpline()
        theta = (spline.identity() + noise * 3 / 28) / (0.75 + 0.25 * draw[:, :1])
        ours = sample(images, spline.grid(theta, (28, 28)))
        theirs = [baselines.tv_spline(i, t.view(16, 2)) for i, t in zip(images, theta, strict=True)]
    else:
        clutter = distortions.draw_clutter(images, generator, images, 60, 6, 6)
        ours = distortions.paste_clutter(images, clutter, 60)
        rows, columns = clutter.row.tolist(), clutter.column.tolist()
        theirs = [
            baselines.tv_clutter(
                images[i],
                60,
                int(clutter.left[i]),
                int(clutter.top[i]),
                list(zip(clutter.cut[i], rows[i], columns[i], strict=True)),
            )
            for i in range(BATCH)
        ]
    return largest_difference(ours, torch.stack(theirs), 1e-4, experiment)


def check_kornia_affine() -> float:
    """The largest difference between ours and kornia's affine distortion for the parameters that kornia drew."""
    from kornia.augmentation import RandomAffine

    augment = RandomAffine(45.0, translate=(0.15, 0.15), scale=(0.7, 1.2), align_corners=False, p=1.0)
    images = baselines.digits()[:BATCH].float() / 255
    theirs = augment(F.pad(images, (7, 7, 7, 7)))
    drawn = augment._params
    x, y = drawn["translations"].unbind(1)
    ours = distortions.warp_affine(images, 42, drawn["angle"], drawn["scale"][:, 0], x, y)
    return largest_difference(ours, theirs, 1e-4, "kornia")


def sampler(rounds: int) -> list[Row]:
    """Sampler: grid and sampling, forward and backward into image and theta, 28x28.

    kornia: `homography_warp`; for TPS `warp_image_tps`, its weights solved for every image as kornia does.

    At 64 channels the sampling itself, the same PyTorch call on both sides, is most of the time.

    Largest difference: of a value.
    """
    if not has_kornia():
        raise SkippedError("it compares with kornia, which is not installed: pip install -e '.[bench]'.")
    rows = []
    for transform in ("affine", "projective", "tps"):
        for channels, batch in ((1, 256), (64, 64)):
            difference = check_warp(transform, channels)
            sides = {
                name: partial(baselines.warp_step, transform, channels, batch, kornia=name == "kornia")
                for name in ("ours", "kornia")
            }
            case = f"{transform}, {channels} channel{'s' * (channels > 1)}, batch {batch}"
            at_least = 5.0 if transform == "tps" else 1.0
            times = in_turn(sides, rounds=rounds)
            rows.append(comparison(case, *times, at_least=at_least, difference=difference, rate=True))
    return rows


def check_warp(transform: str, channels: int) -> float:
    """The largest difference between ours and kornia's warp."""
    family = baselines.TRANSFORMS[transform]()
    image = torch.rand(16, channels, 28, 28)
    theta = family.identity() + 0.05 * torch.randn(16, family.num_params)
    ours = sample(image, family.grid(theta, (28, 28)))
    return largest_difference(ours, baselines.kornia_warp(transform, image, theta), 1e-3, transform)
