"""One image file to 8-bit pixels, upright, with the whole range of its values, on the padding's black."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["decode"]

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode


def decode(file: Path, channels: int = 3) -> Image.Image:
    """Decodes an image.

    The image is turned as its EXIF orientation says. Of 16-bit integers, 65,535 is white. Of floats, 1 is white, or 255
    where some are above 1. What is transparent shows black, which is the value outside of an image here.

    Args:
        file: of any format that Pillow reads; of several frames, the first.
        channels: 1 for grey, 3 for colour.

    Returns:
        The image, 8 bits a channel.

    Raises:
        ValueError: The file is not there or holds no image, is damaged, has more pixels than Pillow takes for an image
            (179 million), or has numbers of which no white is known. The message is a few words, without the file's
            name.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "deep.png"
        ...     Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(file)
        ...     list(decode(file, 1).tobytes())
        [0, 128, 255]
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of that number on
            image: Image.Image = Image.open(file)
        with image:
            image.load()
            with contextlib.suppress(Exception):  # of orientation data that are damaged; the pixels are not
                image = ImageOps.exif_transpose(image)
            if image.mode == "F" or image.mode.startswith("I"):
                image = Image.fromarray(_to_bytes(np.asarray(image)))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
            return image.convert(MODES[channels])
    except Image.DecompressionBombError:
        raise ValueError("too many pixels") from None
    except _RangeError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or "cannot be decoded") from error
    except Exception as error:  # Pillow raises half a dozen other kinds
        raise ValueError("cannot be decoded") from error


class _RangeError(ValueError):
    pass


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 16 bits, or floats, as bytes."""
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu"
    white = 65535 if whole else 1 if high <= 1 else 255
    if not 0 <= low <= high <= white:  # or one is not a number
        raise _RangeError(
            f"values from {low:g} to {high:g}, not {'0 to 65535' if whole else '0 to 1 or 0 to 255'}"
        )
    scaled: np.ndarray = np.rint(values * (255 / white))
    return scaled.astype(np.uint8)
