"""CUB-200-2011 birds in the official layout: all, a part of the classes, or a drawn stand-in (section 4.3)."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stn.datasets.photos import Photos, complaint, locked, shorter_side
from stn.files import DataNotFoundError, resolve_data_dir

__all__ = [
    "BODY",
    "HEAD",
    "Birds",
    "Lists",
    "find_birds",
    "in_middle",
    "install",
    "read_lists",
    "toy_birds",
    "unpack",
]

FOLDER = "CUB_200_2011"  # what the official archive unpacks to
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
HEAD = ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat")
BODY = tuple(part for part in PARTS if part not in HEAD)
OFFICIAL = {"classes": 200, "images": 11788, "train": 5994, "test": 5794}
SOURCE = "https://data.caltech.edu/records/65de6-vp158"


@dataclass(frozen=True)
class Lists:
    """What the official text files say, in the order of images.txt.

    files: of the images.   labels: (N,), from 0.   training: (N,), bool.   classes: names.
    boxes: (N, 4), left, top, width, height in pixels.   parts: (N, 15, 3), x and y in pixels and 1 where visible.
    """

    files: list[Path]
    labels: Tensor
    training: Tensor
    classes: list[str]
    boxes: Tensor
    parts: Tensor


def read_lists(root: Path, expected: Mapping[str, int] | None = None) -> Lists:
    """The lists of a data set in the official layout.

    root: the folder with images.txt, images/ and parts/.
    expected: how many `classes`, `images`, `train`ing and `test` images there must be.
    raises: ValueError for lists that are missing, damaged, or of another length.
    """
    names = (
        "images",
        "image_class_labels",
        "train_test_split",
        "classes",
        "bounding_boxes",
        "parts/part_locs",
    )
    missing = [f"{name}.txt" for name in names if not (root / f"{name}.txt").is_file()]
    if missing:
        raise ValueError(complaint(missing, f"lists are missing in {root}") + ". Unpack the data set anew.")
    try:
        paths, labels, split, classes, boxes = (_read(root / f"{name}.txt") for name in names[:5])
        ids = list(paths)
        rows = {image: row for row, image in enumerate(ids)}
        parts = torch.zeros(len(ids), len(PARTS), 3)
        for line in (root / "parts" / "part_locs.txt").read_text().splitlines():
            image, part, *place = line.split()
            parts[rows[image], int(part) - 1] = torch.tensor([float(number) for number in place])
        numbers = {name: row for row, name in enumerate(classes)}
        lists = Lists(
            files=[root / "images" / paths[i] for i in ids],
            labels=torch.tensor([numbers[labels[i]] for i in ids]),
            training=torch.tensor([split[i] == "1" for i in ids]),
            classes=[name.split(".", 1)[-1].replace("_", " ") for name in classes.values()],
            boxes=torch.tensor([[float(number) for number in boxes[i].split()] for i in ids]),
            parts=parts,
        )
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"The lists in {root} do not agree with each other ({type(error).__name__}: {error}): unpack the data set "
            "anew."
        ) from error
    held = {
        "classes": len(classes),
        "images": len(ids),
        "train": int(lists.training.sum()),
        "test": int((~lists.training).sum()),
    }
    wrong = [
        f"{held[key]} {key}, not {count}" for key, count in (expected or {}).items() if held[key] != count
    ]
    if wrong:
        raise ValueError(f"The lists in {root} are not of the whole data set: {'; '.join(wrong)}.")
    return lists


def _read(path: Path) -> dict[str, str]:
    """Lines "id value" -> id: value."""
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    return {key: value.strip() for key, value in lines}


def in_middle(places: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Places in an image, in the frame of a square in its middle.

    places: (N, K, 2), x and y in pixels.   sizes: (N, 2), (height, width).   share: the square's side as a share of the
    image's shorter one.   returns: (N, K, 2), -1 to 1 between the square's edges; beyond, where a place lies outside.
    """
    side = share * sizes.min(1).values[:, None, None]
    return (places - sizes.flip(1)[:, None] / 2) * 2 / side


def find_birds(folder: str, data_dir: str | Path | None, cache_dir: str | Path) -> Path:
    """The root of a data set in the official layout: data_dir/<folder>/CUB_200_2011 or data_dir/CUB_200_2011, or that
    of the archives (.tar, .tgz, .tar.gz) in data_dir/<folder>, unpacked under `cache_dir` on first use.

    raises: DataNotFoundError where there is neither.
    """
    data = resolve_data_dir(data_dir)
    for root in (data / folder / FOLDER, *([data / FOLDER] if folder == "cub" else [])):
        if (root / "images.txt").is_file():
            return root
    archives = sorted(
        path for path in (data / folder).glob("*") if path.name.endswith((".tar", ".tgz", ".tar.gz"))
    )
    if not archives:
        raise DataNotFoundError(
            f"No birds in {os.path.abspath(data / folder)}. Get CUB_200_2011.tgz (1.1 GB) from {SOURCE} and run "
            "python scripts/prepare_data.py cub --archive FILE, or name the folder above another "
            f"{folder}/ with data_dir=DIR or STN_DATA_DIR. Without birds, drawn ones work: dataset=toy_birds"
        )
    return _made(Path(cache_dir) / folder, lambda into: unpack(archives, into))


def unpack(archives: Sequence[Path], into: Path) -> None:
    """Unpacks archives of the official layout.

    raises: ValueError for an archive that cannot be read, or that would write outside of the folder.
    """
    for archive in archives:
        try:
            with tarfile.open(archive) as file:
                file.extractall(into, filter="data")
        except tarfile.FilterError as error:
            raise ValueError(
                f"{archive} would write outside of its folder ({error}): it is not the official one."
            ) from error
        except (OSError, EOFError, tarfile.TarError) as error:
            raise ValueError(f"{archive} cannot be unpacked ({error}): download it anew.") from error


def install(archive: Path | None, data_dir: str | Path | None = None) -> Path:
    """The whole data set under data_dir/cub, unpacked from its official archive, and checked: lists, counts, images.

    archive: CUB_200_2011.tgz; None to check what is there.   returns: its root.
    raises: DataNotFoundError where there is nothing to check, ValueError for an archive or a data set that is damaged.
    """
    folder = resolve_data_dir(data_dir) / "cub"
    if archive is not None:
        _made(folder, lambda into: unpack([archive], into))
    root = find_birds("cub", data_dir, folder)
    lists = read_lists(root, OFFICIAL)
    broken = [str(path) for path in lists.files if not _readable(path)]
    if broken:
        raise ValueError(
            complaint(broken, "images are missing or cannot be read") + ". Unpack the data set anew."
        )
    return root


def _readable(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


def _made(folder: Path, make: Callable[[Path], object]) -> Path:
    """folder/CUB_200_2011, made by `make(temporary folder)` where it is not there. Whole or not at all."""
    root = folder / FOLDER
    with locked(folder.parent / f"{folder.name}.lock"):
        if not root.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
                make(Path(temporary))
                made = Path(temporary) / FOLDER
                if not made.is_dir():
                    raise ValueError(
                        f"There is no {FOLDER}/ in the archives for {folder}: are they of another data set?"
                    )
                shutil.move(made, root)
    return root


class Birds(Photos):
    """Birds to tell apart from their classes alone; what is known of boxes and parts is for counting only.

    folder: under data_dir, in the official layout or as archives of it (`find_birds`); `toy_birds` is drawn.
    expected: counts that must be met, as of `read_lists`.
    Test batches have a third part, (B, 15, 3): where the `PARTS` are, x and y in the frame of the image that the
    network sees, from -1 to 1, and 1 where one is visible.
    The rest as of `Photos`.   raises: as `find_birds`, `read_lists` and `Photos`.
    """

    def __init__(
        self,
        folder: str,
        *,
        size: int = 224,
        data_dir: str | Path | None = None,
        cache_dir: str | Path = "outputs/cache",
        expected: Mapping[str, int] | None = None,
        val_size: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        drawn = folder == TOY
        root = _made(Path(cache_dir) / TOY, toy_birds) if drawn else find_birds(folder, data_dir, cache_dir)
        lists = read_lists(root, expected)
        super().__init__(
            folder,
            lists.files,
            lists.labels,
            lists.training,
            lists.classes,
            size=size,
            cache_dir=cache_dir,
            val_size=val_size,
            seed=seed,
            device=device,
        )
        places = in_middle(lists.parts[..., :2], self.cache.sizes.float(), size / shorter_side(size))
        self.extra = torch.cat([places, lists.parts[..., 2:]], 2)


TOY = "toy_birds"
HEADS = {"red": (200, 40, 40), "yellow": (235, 200, 40), "white": (240, 240, 240)}
BODIES = {"plain": None, "striped": (30, 30, 30), "spotted": (250, 250, 250)}
TOY_TRAIN, TOY_TEST = 12, 4  # images a class


def toy_birds(into: Path) -> None:
    """Nine classes of drawn birds in the official layout, into/CUB_200_2011: a head of three colours on a body of three
    patterns, so that neither alone tells the class; of any size, anywhere, facing either way, on a mottled ground.
    """
    from PIL import Image

    root = into / FOLDER
    (root / "parts").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    lines: dict[str, list[str]] = {name: [] for name in ("images", "labels", "split", "boxes", "parts")}
    classes = [f"{i + 1:03d}.{h.title()}_headed_{b.title()}" for i, (h, b) in enumerate(_toy_classes())]
    number = 0
    for label, (name, (head, body)) in enumerate(zip(classes, _toy_classes(), strict=True)):
        (root / "images" / name).mkdir(parents=True)
        for k in range(TOY_TRAIN + TOY_TEST):
            number += 1
            picture, box, parts = _draw(head, body, generator)
            file = f"{name}/{name.split('.')[1]}_{k:04d}.jpg"
            Image.fromarray(picture.numpy()).save(root / "images" / file, quality=90)
            lines["images"].append(f"{number} {file}")
            lines["labels"].append(f"{number} {label + 1}")
            lines["split"].append(f"{number} {int(k < TOY_TRAIN)}")
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
    """returns: the picture (H, W, 3) uint8; its box, left, top, width, height; and where its parts are, (x, y)."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    width, height = int(uniform(260, 340)), int(uniform(220, 280))
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 0.5 + torch.tensor([0.2, 0.35, 0.2]).view(
        1, 3, 1, 1
    )
    picture = (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0) * 255
    )
    length = uniform(45, 70)  # half the body's
    x = uniform(1.7 * length, width - 1.7 * length)
    y = uniform(1.3 * length, height - 0.9 * length)
    facing = 1 if uniform(0, 1) < 0.5 else -1
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across, down = (
        (columns - x) * facing / length,
        (rows - y) / length,
    )  # the body is the unit ellipse, facing right

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
    paint(
        (across > 1.25) & (across < 1.6) & ((down + 0.55).abs() < 0.35 * (1.6 - across)), (60, 60, 60)
    )  # beak
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
