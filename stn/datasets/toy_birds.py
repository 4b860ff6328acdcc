"""Drawn birds: nine classes that take head and body to tell, in the official layout."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stn.datasets.bird_lists import FOLDER, PARTS

__all__ = ["toy_birds"]

HEADS = {"red": (200, 40, 40), "yellow": (235, 200, 40), "white": (240, 240, 240)}
BODIES = {"plain": None, "striped": (30, 30, 30), "spotted": (250, 250, 250)}
TRAIN, TEST = 12, 4  # images a class


def toy_birds(into: Path) -> None:
    """Draws nine classes of birds in the official layout, into/CUB_200_2011: a stand-in without a download.

    A head of three colours on a body of three patterns, so that neither alone tells the class. The birds have any size,
    place and direction, on a mottled ground. 12 training and 4 test images a class, the same on every machine.

    Args:
        into: an existing folder.
    """
    root = into / FOLDER
    (root / "parts").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    lines: dict[str, list[str]] = {name: [] for name in ("images", "labels", "split", "boxes", "parts")}
    classes = [f"{i + 1:03d}.{h.title()}_headed_{b.title()}" for i, (h, b) in enumerate(_toy_classes())]
    number = 0
    for label, (name, (head, body)) in enumerate(zip(classes, _toy_classes(), strict=True)):
        (root / "images" / name).mkdir(parents=True)
        for k in range(TRAIN + TEST):
            number += 1
            picture, box, parts = _draw(head, body, generator)
            file = f"{name}/{name.split('.')[1]}_{k:04d}.jpg"
            Image.fromarray(picture.numpy()).save(root / "images" / file, quality=90)
            lines["images"].append(f"{number} {file}")
            lines["labels"].append(f"{number} {label + 1}")
            lines["split"].append(f"{number} {int(k < TRAIN)}")
            lines["boxes"].append(f"{number} " + " ".join(f"{value:.1f}" for value in box))
            for part, place in enumerate(PARTS, 1):
                x, y, visible = (*parts[place], 1) if place in parts else (0.0, 0.0, 0)
                lines["parts"].append(f"{number} {part} {x:.1f} {y:.1f} {visible}")
    for name, content in (
        ("images", lines["images"]),
        ("image_class_labels", lines["labels"]),
        ("train_test_split", lines["split"]),
        ("bounding_boxes", lines["boxes"]),
        ("classes", [f"{i + 1} {one}" for i, one in enumerate(classes)]),
        ("parts/part_locs", lines["parts"]),
        ("parts/parts", [f"{i} {part}" for i, part in enumerate(PARTS, 1)]),
    ):
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")


def _toy_classes() -> list[tuple[str, str]]:
    return [(head, body) for head in HEADS for body in BODIES]


def _draw(
    head: str, body: str, generator: torch.Generator
) -> tuple[Tensor, tuple[float, float, float, float], dict[str, tuple[float, float]]]:
    """One bird.

    Returns:
        The picture (H, W, 3), uint8; its box, left, top, width, height, in pixels; and (x, y) of its parts, in pixels.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    width, height = int(uniform(260, 340)), int(uniform(220, 280))
    green = torch.tensor([0.2, 0.35, 0.2]).view(1, 3, 1, 1)
    mottles = torch.rand(1, 3, 6, 8, generator=generator) * 0.5 + green
    picture = F.interpolate(mottles, (height, width), mode="bicubic")[0].permute(1, 2, 0) * 255
    length = uniform(45, 70)  # half the body's length, pixels
    x = uniform(1.7 * length, width - 1.7 * length)  # of the body's middle
    y = uniform(1.3 * length, height - 0.9 * length)
    facing = 1 if uniform(0, 1) < 0.5 else -1  # 1: to the right
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # The bird's own frame: the body is an ellipse of half axes 1 and 0.55, the head is at positive `across`.
    across, down = (columns - x) * facing / length, (rows - y) / length

    def paint(where: Tensor, colour: tuple[int, int, int] | None) -> None:
        if colour is not None:
            picture[where] = torch.tensor(colour, dtype=picture.dtype)

    shape = across**2 + (down / 0.55) ** 2 < 1
    brown = (150, 110, 70)
    paint((across < -0.7) & (across > -1.6) & ((down + 0.1).abs() < 0.16), brown)  # tail
    paint(((across.abs() - 0.2).abs() < 0.04) & (down > 0.4) & (down < 0.85), (90, 60, 30))  # legs
    paint(shape, brown)
    stripes = (torch.remainder(across * 4, 1) < 0.4) & shape
    spots = (torch.remainder(across * 4, 1) - 0.5) ** 2 + (torch.remainder(down * 4, 1) - 0.5) ** 2 < 0.07
    paint({"plain": shape & ~shape, "striped": stripes, "spotted": spots & shape}[body], BODIES[body])
    paint((across - 0.9) ** 2 + (down + 0.6) ** 2 < 0.16, HEADS[head])
    beak = (across > 1.25) & (across < 1.6) & ((down + 0.55).abs() < 0.35 * (1.6 - across))
    paint(beak, (60, 60, 60))
    paint((across - 1.02) ** 2 + (down + 0.68) ** 2 < 0.006, (0, 0, 0))  # eye
    places = {
        "beak": (1.4, -0.55), "crown": (0.9, -0.95), "forehead": (1.2, -0.8), "nape": (0.6, -0.75),
        "throat": (1.0, -0.3), "right eye" if facing > 0 else "left eye": (1.02, -0.68), "back": (-0.1, -0.5),
        "belly": (0.0, 0.5), "breast": (0.7, 0.2), "tail": (-1.3, -0.1),
        "right wing" if facing > 0 else "left wing": (-0.2, 0.0), "left leg": (-0.2, 0.7), "right leg": (0.2, 0.7),
    }  # fmt: skip
    parts = {part: (x + facing * length * a, y + length * d) for part, (a, d) in places.items()}
    box = (x - 1.6 * length, y - length, 3.2 * length, 1.85 * length)
    return picture.clamp(0, 255).to(torch.uint8), box, parts
