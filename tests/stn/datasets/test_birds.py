"""Birds: the official lists, what is refused of them, the drawn stand-in, and the real ones where they are."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from stn.datasets import birds
from stn.datasets.birds import (
    BODY,
    HEAD,
    PARTS,
    Birds,
    find_birds,
    in_middle,
    install,
    read_lists,
    toy_birds,
    unpack,
)
from stn.files import DataNotFoundError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    toy_birds(folder)
    return folder / "CUB_200_2011"


@pytest.fixture
def mine(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "mine"))


def test_the_parts_are_the_official_ones():
    assert len(PARTS) == 15 and len(HEAD) == 7 and len(BODY) == 8 and set(HEAD) | set(BODY) == set(PARTS)


def test_lists_by_hand(mine):
    counts = {"classes": 9, "images": 144, "train": 108, "test": 36}
    lists = read_lists(mine, counts)
    assert lists.labels.bincount().tolist() == [16] * 9 and lists.training[lists.labels == 4].sum() == 12
    assert lists.classes[0] == "Red headed Plain" and lists.files[0].parent.name == "001.Red_headed_Plain"
    text = (mine / "parts" / "part_locs.txt").read_text().splitlines()
    _, _, x, y, visible = text[16].split()  # the second image's beak
    assert lists.parts[1, PARTS.index("beak")].tolist() == pytest.approx([float(x), float(y), float(visible)])
    with pytest.raises(ValueError, match="9 classes, not 200; 36 test, not 5794"):
        read_lists(mine, {**counts, "classes": 200, "test": 5794})


def test_drawn_birds_have_their_parts_where_they_are_said_to_be(drawn):
    from PIL import Image

    lists = read_lists(drawn)
    for i in range(0, 144, 7):
        image = Image.open(lists.files[i]).convert("RGB")
        where = {part: lists.parts[i, k] for k, part in enumerate(PARTS)}
        eye = where["left eye"] if where["left eye"][2] else where["right eye"]
        assert (where["left eye"][2] + where["right eye"][2]) == 1
        assert max(image.getpixel((int(eye[0]), int(eye[1])))) < 70  # black
        left, top, width, height = lists.boxes[i].tolist()
        for x, y, visible in lists.parts[i].tolist():
            assert not visible or (left <= x <= left + width and top <= y <= top + height)


def test_the_frame_of_the_middle_by_hand():
    places = torch.tensor([[[150.0, 100], [50, 0], [0, 200]]])
    sizes = torch.tensor([[200.0, 300]])  # 200 high, 300 wide: the middle square is from x = 50 to 250
    expected = torch.tensor([[[0.0, 0], [-1, -1], [-1.5, 1]]])
    torch.testing.assert_close(in_middle(places, sizes, 1.0), expected)
    torch.testing.assert_close(in_middle(places, sizes, 0.5), 2 * expected)


def test_parts_are_given_in_the_frame_that_the_network_sees(tmp_path):
    data = Birds("toy_birds", size=112, cache_dir=tmp_path)
    images, _, parts = next(data.test.batches(36))
    dark = 0
    for image, told in zip(images, parts, strict=True):
        for name in ("left eye", "right eye"):
            x, y, visible = told[PARTS.index(name)].tolist()
            if visible and max(abs(x), abs(y)) < 0.95:
                column, row = int((x + 1) * 56), int((y + 1) * 56)
                assert image[:, row, column].max() < 0.45
                dark += 1
    assert dark > 20
    assert len(data.train_stream(4).next_batch()) == 2  # training is not told of parts


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"1 lists are missing in .*: classes\.txt"),
        (lambda root: (root / "images.txt").write_text("1 a.jpg\n"), "do not agree with each other"),
        (lambda root: (root / "parts" / "part_locs.txt").write_text("1 2\n"), "do not agree with each other"),
    ],
)
def test_damaged_lists_are_refused(mine, damage, message):
    damage(mine)
    with pytest.raises(ValueError, match=message):
        read_lists(mine)


def archive(path, names):
    with tarfile.open(path, "w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 2
            file.addfile(info, io.BytesIO(b"hi"))
    return path


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path):
    bad = archive(tmp_path / "bad.tar", ["CUB_200_2011/images.txt", "../../outside.txt"])
    with pytest.raises(ValueError, match="would write outside of its folder"):
        unpack([bad], tmp_path / "into" / "deep")
    assert not list(tmp_path.rglob("outside.txt"))
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack([tmp_path / "broken.tar"], tmp_path / "into")


def test_archives_in_the_data_folder_are_unpacked_once(drawn, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"No birds in .*Get CUB_200_2011\.tgz"):
        find_birds("few", tmp_path, tmp_path / "cache")
    (tmp_path / "few").mkdir()
    with tarfile.open(tmp_path / "few" / "part.tgz", "w:gz") as file:
        file.add(drawn, "CUB_200_2011")
    root = find_birds("few", tmp_path, tmp_path / "cache")
    assert root == tmp_path / "cache" / "few" / "CUB_200_2011" and len(read_lists(root).files) == 144
    stamp = root.stat().st_ctime_ns
    assert find_birds("few", tmp_path, tmp_path / "cache") == root and root.stat().st_ctime_ns == stamp
    (tmp_path / "other").mkdir()
    archive(tmp_path / "other" / "a.tar", ["something/else.txt"])
    with pytest.raises(ValueError, match="There is no CUB_200_2011/ in the archives"):
        find_birds("other", tmp_path, tmp_path / "cache")


def test_an_installed_archive_is_checked(drawn, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "birds.tgz", "w:gz") as file:
        file.add(drawn, "CUB_200_2011")
    with pytest.raises(ValueError, match="9 classes, not 200; 144 images, not 11788"):
        install(tmp_path / "birds.tgz", tmp_path / "data")
    monkeypatch.setattr(birds, "OFFICIAL", {"classes": 9})
    root = install(tmp_path / "birds.tgz", tmp_path / "data")
    assert root == tmp_path / "data" / "cub" / "CUB_200_2011" and install(None, tmp_path / "data") == root
    file = read_lists(root).files[5]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=f"1 images are missing or cannot be read: .*{file.name}"):
        install(None, tmp_path / "data")


def real_data() -> Path | None:
    places = [Path(os.environ.get("STN_DATA_DIR") or "data"), Path(__file__).parents[4] / "shared" / "data"]
    return next((place for place in places if (place / "cub50").is_dir()), None)


@pytest.mark.skipif(real_data() is None, reason="needs cub50/ in STN_DATA_DIR")
def test_real_birds(tmp_path):
    data = Birds(
        "cub50",
        data_dir=real_data(),
        cache_dir=tmp_path,
        expected={"classes": 50, "images": 2889, "train": 1500, "test": 1389},
    )
    assert data.num_classes == 50 and data.in_shape == (3, 224, 224) and len(data.test) == 1389
    parts = data.test.extra
    seen = parts[..., 2] == 1
    assert (
        parts[..., :2][seen].abs() <= 1
    ).float().mean() > 0.75  # most of a bird is in the middle of its photograph
    images, labels = data.train_stream(16).next_batch()
    assert images.shape == (16, 3, 224, 224) and labels.max() < 50 and images.std() > 0.1
