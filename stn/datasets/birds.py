"""Birds to tell apart, from CUB-200-2011 or drawn (section 4.3)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stn.datasets.bird_archives import find_birds, make_once
from stn.datasets.bird_lists import read_lists
from stn.datasets.image_cache import shorter_side
from stn.datasets.images import ImageDataset
from stn.datasets.toy_birds import toy_birds

__all__ = ["Birds", "to_middle_square"]

TOY = "toy_birds"


class Birds(ImageDataset):
    """Birds, to be told apart from their classes alone.

    Boxes and parts are never trained on. Test batches have a third item, (B, 15, 3): the places of the `PARTS`, x and y
    from -1 to 1 between the edges of the network's input, and 1 where a part is visible.

    Args:
        folder: under data_dir, in the official layout or as archives of it, see `find_birds`. `toy_birds` is drawn.
        size: side of the network's input, pixels, from 32.
        data_dir: as of `stn.files.resolve_data_dir`.
        cache_dir: folder for unpacked archives and decoded images.
        expected: numbers of classes and images that there must be, as of `read_lists`.
        val_size: number of training images that are held out for validation, the same ones for every seed.
        seed: of the training stream.
        device: of the batches.

    Raises:
        DataNotFoundError: There are no birds in data_dir.
        ValueError: An archive, a list or an image is damaged, or a number is out of range.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Birds("toy_birds", size=64, cache_dir=folder)
        >>> data.num_classes, data.in_shape, len(data.test)
        (9, (3, 64, 64), 36)
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
        root = (
            make_once(Path(cache_dir) / TOY, toy_birds) if drawn else find_birds(folder, data_dir, cache_dir)
        )
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
        places = to_middle_square(lists.parts[..., :2], self.cache.sizes.float(), size / shorter_side(size))
        self.extra = torch.cat([places, lists.parts[..., 2:]], 2)


def to_middle_square(places: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Places in an image, in the frame of the square in its middle.

    Args:
        places: (N, K, 2), x and y in pixels of the image.
        sizes: (N, 2), (height, width) of the image, pixels.
        share: side of the square as a share of the image's shorter side.

    Returns:
        (N, K, 2), x and y from -1 to 1 between the square's edges, and beyond where a place lies outside.

    Examples:
        >>> places, sizes = torch.tensor([[[150.0, 100.0], [50.0, 0.0]]]), torch.tensor([[200.0, 300.0]])
        >>> to_middle_square(places, sizes, share=1.0).tolist()
        [[[0.0, 0.0], [-1.0, -1.0]]]
    """
    side = share * sizes.min(1).values[:, None, None]
    return (places - sizes.flip(1)[:, None] / 2) * 2 / side
