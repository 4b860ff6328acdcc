"""Decoded images against arrays worked out by hand: orientation, range of values, transparency, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from stn.datasets.decoding import decode

GREY = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
# EXIF 2.3, tag 274 -> the stored array as it is to be seen: where row 0 and column 0 of what is stored belong.
UPRIGHT = {
    1: GREY,  # top, left
    2: GREY[:, ::-1],  # top, right
    3: GREY[::-1, ::-1],  # bottom, right
    4: GREY[::-1],  # bottom, left
    5: GREY.T,  # left, top
    6: GREY.T[:, ::-1],  # right, top
    7: GREY.T[::-1, ::-1],  # right, bottom
    8: GREY.T[::-1],  # left, bottom
}


def pixels(file, channels=1):
    return np.asarray(decode(file, channels))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    assert (pixels(tmp_path / "a.png") == UPRIGHT[orientation]).all()


def test_damaged_exif_costs_no_image(tmp_path):
    Image.new("RGB", (9, 7), (200, 100, 50)).save(tmp_path / "a.jpg", exif=b"Exif\0\0nothing of the kind")
    assert pixels(tmp_path / "a.jpg", 3).shape == (7, 9, 3)


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        (np.array([[0, 257, 32896, 65535]], np.uint16), "a.png", [0, 1, 128, 255]),
        (np.array([[0, 257, 32896, 65535]], ">u2"), "a.tif", [0, 1, 128, 255]),
        (np.array([[0, 257, 32896, 65535]], np.int32), "a.tif", [0, 1, 128, 255]),
        (np.array([[0, 0.2, 1]], np.float32), "a.tif", [0, 51, 255]),
        (np.array([[0, 0.4, 51, 254.6]], np.float32), "a.tif", [0, 0, 51, 255]),
        (np.array([[False, True]]), "a.png", [0, 255]),
    ],
)
def test_the_whole_range_of_values_is_kept(tmp_path, values, name, expected):
    Image.fromarray(values).save(tmp_path / name)
    assert pixels(tmp_path / name).ravel().tolist() == expected
    assert pixels(tmp_path / name, 3)[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("values", [[0, 256.5], [-0.5, 1], [0, np.nan], [0, np.inf]])
def test_floats_of_no_known_white_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"^values from .* to .*, not 0 to 1 or 0 to 255$"):
        decode(tmp_path / "a.tif")


def test_what_is_transparent_is_black(tmp_path):
    colour = np.array([[[200, 100, 50, 255], [200, 100, 50, 51], [200, 100, 50, 0]]], np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", 3)[0].tolist() == [[200, 100, 50], [40, 20, 10], [0, 0, 0]]
    Image.fromarray(colour[..., 2:]).save(tmp_path / "b.png")  # grey and alpha
    assert pixels(tmp_path / "b.png")[0].tolist() == [50, 10, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([255, 255, 255, 90, 80, 70])
    palette.save(tmp_path / "c.png", transparency=0)
    assert pixels(tmp_path / "c.png", 3)[0].tolist() == [[0, 0, 0], [90, 80, 70]]


def test_colour_and_grey_are_turned_into_each_other(tmp_path):
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").item() == round(0.299 * 255)  # ITU-R BT.601
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png", 3) == GREY[..., None]).all()


def test_what_is_no_image_or_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_text("no image")
    Image.fromarray(GREY).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[:-25])
    for name, reason in {
        "a.jpg": "cannot be decoded",
        "c.png": "cannot be decoded",
        "d.jpg": "No such file",
    }.items():
        with pytest.raises(ValueError, match=reason):
            decode(tmp_path / name)
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 4
    )  # the image has 6, and up to 8 are no more than a warning
    decode(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(ValueError, match="too many pixels"):
        decode(tmp_path / "b.png")
