"""Your own images, one folder for each class (torchvision's ImageFolder layout)."""

from pathlib import Path

import torch
from torchvision.datasets import ImageFolder

from stn.datasets.images import ImageDataset
from stn.files import DataNotFoundError
from stn.seeds import stream_seed

__all__ = ["OwnImages"]


class OwnImages(ImageDataset):
    """Images in root/train/<class>/ to train on and root/val/<class>/ to test on; or in root/<class>/, split at random.

    Args:
        root: the folder.
        size: side of the network's input, pixels, from 32.
        cache_dir: folder for the decoded images.
        test_share: share of each class that is tested on, at least one image, where root has no split of its own.
        val_size: number of training images that are held out for validation, the same ones for every seed.
        seed: of the training stream.
        test_seed: of the random split, whatever `seed` is.
        device: of the batches.

    Raises:
        DataNotFoundError: The folder is not there or holds no classes.
        ValueError: val/ has a class that train/ has not, `test_share` is not between 0 and 1, or as of `ImageDataset`.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         (Path(root) / name).mkdir()
        ...         for i in range(5):
        ...             Image.new("RGB", (60, 50)).save(Path(root) / name / f"{i}.png")
        ...     data = OwnImages(root, size=32, cache_dir=Path(root) / "cache", test_share=0.4)
        >>> data.classes, len(data.train_index), len(data.test)
        (['cat', 'dog'], 6, 4)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: int = 224,
        cache_dir: str | Path = "outputs/cache",
        test_share: float = 0.2,
        val_size: int = 0,
        seed: int = 0,
        test_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        root = Path(root).expanduser()
        split = (root / "train").is_dir() and (root / "val").is_dir()
        train = _image_folder(root / "train" if split else root)
        samples, labels = list(train.samples), torch.tensor([label for _, label in train.samples])
        training = torch.ones(len(samples), dtype=torch.bool)
        if split:
            test = _image_folder(root / "val")
            unknown = sorted(set(test.classes) - set(train.classes))
            if unknown:
                raise ValueError(
                    f"{root / 'val'} has classes that train/ has not: {', '.join(unknown[:5])}. Name the folders alike."
                )
            test_samples = [(path, train.class_to_idx[test.classes[label]]) for path, label in test.samples]
            samples += test_samples
            labels = torch.cat([labels, torch.tensor([label for _, label in test_samples])])
            training = torch.cat([training, torch.zeros(len(test_samples), dtype=torch.bool)])
        else:
            if not 0 < test_share < 1:
                raise ValueError(
                    f"dataset.test_share={test_share} is not valid: it is a share of the images, between 0 and 1."
                )
            generator = torch.Generator().manual_seed(stream_seed(test_seed, "own images"))
            for label in range(len(train.classes)):
                of_class = (labels == label).nonzero()[:, 0]
                of_class = of_class[torch.randperm(len(of_class), generator=generator)]
                training[of_class[: max(1, round(test_share * len(of_class)))]] = False
        super().__init__(
            root.resolve().name,
            [Path(path) for path, _ in samples],
            labels,
            training,
            train.classes,
            size=size,
            cache_dir=cache_dir,
            val_size=val_size,
            seed=seed,
            device=device,
        )


def _image_folder(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{folder} holds no images to train on ({error}): dataset.root=FOLDER is a folder with one folder a "
            "class, or with train/ and val/ that have."
        ) from error
