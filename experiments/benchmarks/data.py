"""Suites distort and sampler: our data pipeline and our sampler against libraries."""

import importlib.util
import random
from functools import partial

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from experiments.benchmarks import baselines
from experiments.benchmarks.steps import distortion_pipeline
from experiments.benchmarks.timing import Make, Row, SkippedError, compare, largest_difference
from stn.datasets.distortions import warp_affine

# Distortion, against, at least so many times as fast, digits in an epoch of theirs.
CASES: tuple[tuple[str, str, float | None, int], ...] = (
    ("R", "torchvision", 30.0, 4096),
    ("RTS", "torchvision", 30.0, 4096),
    ("P", "torchvision", 30.0, 4096),
    ("E", "torchvision", 100.0, 2048),
    ("TC", "torchvision", 30.0, 4096),
    ("R", "functional", None, 8192),
    ("RTS", "functional", None, 8192),
    ("P", "functional", None, 8192),
    ("R", "PIL", None, 8192),
    ("RTS", "kornia", 1.5, 0),
)


def has_kornia() -> bool:
    return importlib.util.find_spec("kornia") is not None


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
    rows = []
    for case, kind, at_least, size in CASES:
        experiment = f"mnist_{case.lower()}"
        if kind != "kornia":
            difference = check_distortion(experiment, kind)
            theirs: Make = partial(baselines.torchvision_pipeline, experiment, size, kind)
        elif has_kornia():
            difference, theirs = check_kornia_affine(), baselines.kornia_affine
        else:
            continue
        sides: dict[str, Make] = {"ours": partial(distortion_pipeline, experiment), kind: theirs}
        row = compare(case, sides, rounds=rounds, at_least=at_least, difference=difference, rate=True)
        rows.append(row)
    return rows


def check_distortion(experiment: str, kind: str) -> float:
    """The largest difference between ours and torchvision's for the same parameters; of PIL's bytes, the mean one.

    Raises:
        RuntimeError: It is large.
    """
    random.seed(1)
    torch.manual_seed(1)
    distortion = baselines.DISTORTIONS[experiment]
    if experiment == "mnist_p":  # small moves: beyond the horizon torchvision mirrors, ours is black
        distortion = baselines.Perspective(std=1.0)
    digits = baselines.digits()
    images = digits[: baselines.BATCH].float() / 255
    drawn = [distortion.draw(digits) for _ in images]
    ours, pairs = distortion.ours(images, drawn), list(zip(images, drawn, strict=True))
    if kind == "PIL":
        turned = [tv.pil_to_tensor(distortion.theirs(tv.to_pil_image(i), one)) / 255 for i, one in pairs]
        return float((ours - torch.stack(turned)).abs().mean())
    theirs = torch.stack([distortion.theirs(image, one) for image, one in pairs])
    return largest_difference(ours, theirs, 1e-4, experiment)


def check_kornia_affine() -> float:
    """The largest difference between ours and kornia's affine distortion for the parameters that kornia drew."""
    augment = baselines.kornia_augment()
    images = baselines.digits()[: baselines.BATCH].float() / 255
    theirs = augment(F.pad(images, (7, 7, 7, 7)))
    drawn = augment._params
    ours = warp_affine(images, 42, drawn["angle"], drawn["scale"][:, 0], *drawn["translations"].unbind(1))
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
    for transform in baselines.TRANSFORMS:
        for channels, batch in ((1, 256), (64, 64)):
            make = partial(baselines.warp_step, transform, channels, batch)
            sides = {name: partial(make, kornia=name == "kornia") for name in ("ours", "kornia")}
            case = f"{transform}, {channels} channel{'s' * (channels > 1)}, batch {batch}"
            row = {
                "at_least": 5.0 if transform == "tps" else 1.0,
                "difference": check_warp(transform, channels),
            }
            rows.append(compare(case, sides, rounds=rounds, rate=True, **row))
    return rows


def check_warp(transform: str, channels: int) -> float:
    """The largest difference between ours and kornia's warp."""
    inputs = baselines.warp_inputs(transform, channels, 16)
    ours, theirs = baselines.our_warp(transform, *inputs), baselines.kornia_warp(transform, *inputs)
    return largest_difference(ours, theirs, 1e-3, transform)
