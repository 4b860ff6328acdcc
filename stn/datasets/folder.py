"""Your own images, one folder for each class (torchvision's ImageFolder layout)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stn.datasets.folder_layout import TEST, TRAIN, VALIDATION, Layout, content_of, read_layout
from stn.datasets.image_cache import LONGEST
from stn.datasets.images import ImageDataset
from stn.seeds import stream_seed

__all__ = ["OwnImages"]

NAMED = 12  # classes that the description names


class OwnImages(ImageDataset):
    """Images in root/train/<class>/, beside root/val/ or root/test/; or in root/<class>/, split at random.

    Which folder is for what, and what is refused, says `read_layout`; how a file is decoded, `decode`.

    Args:
        root: the folder.
        size: side of the network's input, pixels, from 8.
        channels: 3 for colour, 1 for grey.
        mirror: whether half of the training images are mirrored. Not where left and right differ, as in letters.
        cache_dir: folder for the decoded images.
        test_share: share of each class that is tested on, at least one image, where root has no split of its own.
        val_size: number of training images that are held out for validation, the same ones for every seed.
        seed: of the training stream.
        test_seed: of the random split, whatever `seed` is.
        content: what the folder must hold, as of `content_of`. None: anything.
        device: of the batches.

    Raises:
        DataNotFoundError: The folder is not there or holds no folders.
        ValueError: As of `read_layout` and `ImageDataset`. Or the folder holds something else than `content`,
            `test_share` is not between 0 and 1, or a class has too few images for it.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         (Path(folder) / "pets" / name).mkdir(parents=True)
        ...         for i in range(5):
        ...             Image.new("RGB", (60, 50)).save(Path(folder) / "pets" / name / f"{i}.png")
        ...     data = OwnImages(Path(folder) / "pets", size=32, cache_dir=folder, test_share=0.4)
        >>> print(data.description)
        pets: 2 classes, cat 3 + 2, dog 3 + 2; 6 images to train on, 4 to test on (0.4 of each class, by chance).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: int = 224,
        channels: int = 3,
        mirror: bool = True,
        cache_dir: str | Path = "outputs/cache",
        test_share: float = 0.2,
        val_size: int = 0,
        seed: int = 0,
        test_seed: int = 0,
        content: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._layout = layout = read_layout(root)
        if content is not None and (found := content_of(layout)) != dict(content):
            raise ValueError(
                f"{layout.root} holds other images than those of the run: {_told(found)}, not {_told(content)}."
            )
        self._test_share = test_share
        labels = torch.tensor(layout.labels)
        part = {name: torch.tensor([name == one for one in layout.parts]) for name in (TRAIN, VALIDATION)}
        super().__init__(
            layout.root.name.lstrip(".") or "images",
            layout.files,
            labels,
            part[TRAIN] if layout.folders else _by_chance(layout, labels, test_share, test_seed),
            layout.classes,
            size=size,
            channels=channels,
            mirror=mirror,
            cache_dir=cache_dir,
            validation=part[VALIDATION],
            val_size=val_size,
            seed=seed,
            device=device,
        )

    @property
    def description(self) -> str:
        """One line: the classes with the number of their images, what the images are for, and what is left out."""
        folders = {part: f" ({name}/)" for part, name in self._layout.folders.items()}
        by_chance = f" ({self._test_share:g} of each class, by chance)"
        every = (
            (self.train_index, " images to train on"),
            (self.val_index, f" to validate on{folders.get(VALIDATION, '')}"),
            (self._test_index, f" to test on{folders.get(TEST, by_chance)}"),
        )
        parts = [(index, purpose) for index, purpose in every if len(index)]
        counts = [self._labels[index].bincount(minlength=self.num_classes).tolist() for index, _ in parts]
        classes = [
            f"{name} {' + '.join(map(str, of))}" for name, *of in zip(self.classes, *counts, strict=True)
        ]
        more = [f"and {len(classes) - NAMED} more"] if len(classes) > NAMED else []
        left_out = [f"{count} {what}" for what, count in self._layout.left_out.most_common()]
        sizes = self.cache.sizes
        long = int((sizes.amax(1) > LONGEST * sizes.amin(1)).sum())
        told = [
            f"{len(classes)} classes, {', '.join(classes[:NAMED] + more)}",
            ", ".join(f"{len(index)}{purpose}" for index, purpose in parts),
            *([f"left out: {', '.join(left_out)}"] if left_out else []),
            *([f"cut to their middle: {long} longer than {LONGEST} times their width"] if long else []),
        ]
        return f"{self.name}: {'; '.join(told)}."


def _by_chance(layout: Layout, labels: torch.Tensor, test_share: float, test_seed: int) -> torch.Tensor:
    """Which images are trained on, (N,), bool: a share of each class is not."""
    if not 0 < test_share < 1:
        raise ValueError(
            f"dataset.test_share={test_share} is not valid: it is a share of the images, between 0 and 1."
        )
    training = torch.ones(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(stream_seed(test_seed, "own images"))
    for label, name in enumerate(layout.classes):
        of_class = (labels == label).nonzero()[:, 0]
        tested = max(1, round(test_share * len(of_class)))
        if tested == len(of_class):
            raise ValueError(
                f"{layout.root / name} holds too few images for dataset.test_share={test_share:g}: {tested} to test "
                "on leave none to train on. Add images, or lower the share."
            )
        training[of_class[torch.randperm(len(of_class), generator=generator)][:tested]] = False
    return training


def _told(content: Mapping[str, Any]) -> str:
    return f"{content['images']} images of {len(content['classes'])} classes (sha256 {content['sha256']})"
