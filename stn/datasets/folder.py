"""Your own photographs, a folder a class (torchvision's ImageFolder layout)."""

from pathlib import Path

import torch
from torchvision.datasets import ImageFolder

from stn.datasets.mnist import stream_seed
from stn.datasets.photos import Photos
from stn.files import DataNotFoundError

__all__ = ["OwnImages"]


class OwnImages(Photos):
    """root/train/<class>/* to train on and root/val/<class>/* to test on; or root/<class>/*, split by chance.

    root: the folder.   test_share: of each class, at least one image, where there is no split of yours.
    test_seed: of that split; the same for every `seed`.   The rest as of `Photos`.
    raises: DataNotFoundError for a folder that is not there or holds no classes, ValueError for classes of val/ that
    train/ has not, for a share outside 0 to 1, and as `Photos`.
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
        train = _listed(root / "train" if split else root)
        samples, labels = list(train.samples), torch.tensor([label for _, label in train.samples])
        training = torch.ones(len(samples), dtype=torch.bool)
        if split:
            test = _listed(root / "val")
            unknown = sorted(set(test.classes) - set(train.classes))
            if unknown:
                raise ValueError(
                    f"{root / 'val'} has classes that train/ has not: {', '.join(unknown[:5])}. Name the folders alike."
                )
            ours = [(path, train.class_to_idx[test.classes[label]]) for path, label in test.samples]
            samples += ours
            labels = torch.cat([labels, torch.tensor([label for _, label in ours])])
            training = torch.cat([training, torch.zeros(len(ours), dtype=torch.bool)])
        else:
            if not 0 < test_share < 1:
                raise ValueError(
                    f"dataset.test_share={test_share} is not valid: it is a share of the images, between 0 and 1."
                )
            generator = torch.Generator().manual_seed(stream_seed(test_seed, "own images"))
            for label in range(len(train.classes)):
                mine = (labels == label).nonzero()[:, 0]
                mine = mine[torch.randperm(len(mine), generator=generator)]
                training[mine[: max(1, round(test_share * len(mine)))]] = False
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


def _listed(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{folder} holds no images to train on ({error}): dataset.root=FOLDER is a folder with one folder a "
            "class, or with train/ and val/ that have."
        ) from error
