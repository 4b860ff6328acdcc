"""The image cache: what is decoded, and when it is decoded anew."""

import shutil
import tempfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from stn.datasets import image_cache
from stn.datasets.image_cache import ImageCache
from stn.files import DataNotFoundError


def cache(files, tmp_path, side=40):
    return ImageCache(files, side=side, folder=tmp_path / "cache", name="mine")


def test_images_are_scaled_to_their_shorter_side(files, tmp_path):
    cached = cache(files, tmp_path)
    assert len(cached) == 12 and cached.sizes[2].tolist() == [64, 84]
    for i, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        height, width = cached.shape(i)
        assert min(height, width) == 40 and width / height == pytest.approx(
            image.width / image.height, abs=0.02
        )
        expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        assert (cached[i].permute(1, 2, 0).numpy() == expected).all()
        assert (cached.crop(i, 3, 5, 20) == expected[3:23, 5:25]).all()


def test_it_is_made_once_and_anew_when_a_file_changes(files, tmp_path, monkeypatch):
    made = []
    decode = image_cache._decode
    monkeypatch.setattr(image_cache, "_decode", lambda *a: made.append(1) or decode(*a))
    old = cache(files, tmp_path)
    cache(files, tmp_path)
    assert len(made) == 1
    before = old[0].clone()
    Image.new("RGB", (60, 60), (1, 2, 3)).save(files[0])
    new = cache(files, tmp_path)
    assert len(made) == 2 and new[0].flatten(1).tolist() == [[c] * 1600 for c in (1, 2, 3)]
    assert torch.equal(old[0], before)  # whoever has the old one open keeps it
    cache(files, tmp_path, side=48)
    assert len(made) == 3 and {p.suffix for p in (tmp_path / "cache").glob("*-48.*")} >= {".bin", ".json"}


def test_two_that_start_together_make_one(files, tmp_path, monkeypatch):
    made = []
    decode = image_cache._decode
    monkeypatch.setattr(image_cache, "_decode", lambda *a: made.append(1) or decode(*a))
    got = []
    threads = [threading.Thread(target=lambda: got.append(cache(files, tmp_path)[5])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(got) == 4 and all(torch.equal(one, got[0]) for one in got)


def test_all_that_is_missing_or_unusable_is_named_at_once(files, tmp_path, monkeypatch):
    files[3].write_bytes(b"no picture")
    files[7].write_bytes(files[7].read_bytes()[:200])
    Image.new("1", (500, 400)).save(files[9])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)
    reasons = [
        r"3\.png \(cannot be decoded\)",
        r"7\.png \(cannot be decoded\)",
        r"9\.png \(too many pixels\)",
    ]
    with pytest.raises(ValueError, match=rf"^3 images cannot be used: .*{', .*'.join(reasons)}\. Mend"):
        cache(files, tmp_path)
    assert not list((tmp_path / "cache").glob("*.bin"))
    for file in files[2:9]:
        file.unlink()
    with pytest.raises(ValueError, match=r"7 images are missing: .*2\.png, .*6\.png and 2 more\. Unpack"):
        cache(files, tmp_path)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", None])
@pytest.mark.parametrize("ending", ["bin", "json"])
def test_a_file_that_is_cut_short_or_gone_is_made_anew(tmp_path, damage, ending):
    made = [Image.new("RGB", (50, 40), (9, 8, colour)) for colour in (0, 255)]
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for image, file in zip(made, files, strict=True):
        image.save(file)
    ImageCache(files, side=37, folder=tmp_path, name="two")
    path = tmp_path / f"two-37.{ending}"
    whole = path.read_bytes()
    path.write_bytes(damage(whole)) if damage else path.unlink()
    again = ImageCache(files, side=37, folder=tmp_path, name="two")
    assert path.read_bytes() == whole and again[1][:, 0, 0].tolist() == [9, 8, 255]


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_line_of_pixels_the_middle_is_kept(tmp_path, turned):
    pixels = np.zeros((2, 3000), np.uint8)
    pixels[:, 1492:1508] = 200  # 8 times as long as wide
    Image.fromarray(pixels.T if turned else pixels).save(tmp_path / "line.png")
    cached = cache([tmp_path / "line.png"], tmp_path)
    assert sorted(cached.shape(0)) == [40, 320] and (cached[0] == 200).all()
    assert cached.sizes.tolist() == [[3000, 2] if turned else [2, 3000]]


def test_grey_images_have_one_channel_in_a_cache_of_their_own(files, tmp_path):
    grey = ImageCache(files, side=40, folder=tmp_path / "cache", name="mine", channels=1)
    colour = cache(files, tmp_path)
    image = Image.open(files[5]).convert("L")
    height, width = grey.shape(5)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    assert (grey[5][0].numpy() == expected).all() and grey.crop(5, 1, 2, 30).shape == (30, 30, 1)
    assert colour[5].shape == (3, height, width)


def test_a_folder_that_vanishes_while_it_is_written_is_one_sentence(files, tmp_path, monkeypatch):
    mkstemp = tempfile.mkstemp

    def vanishes(**how):
        made = mkstemp(**how)
        shutil.rmtree(tmp_path / "cache")
        return made

    monkeypatch.setattr(tempfile, "mkstemp", vanishes)
    with pytest.raises(DataNotFoundError, match="vanished while"):
        cache(files, tmp_path)
