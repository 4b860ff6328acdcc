"""Archives of birds: unpacked once, and never outside of their folder; the whole data set, checked."""

import io
import tarfile

import pytest
import torch

from stn.datasets import bird_archives
from stn.datasets.bird_archives import find_birds, install, install_classes, unpack
from stn.datasets.bird_lists import read_lists
from stn.files import DataNotFoundError


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
    monkeypatch.setattr(bird_archives, "OFFICIAL", {"classes": 9})
    root = install(tmp_path / "birds.tgz", tmp_path / "data")
    assert root == tmp_path / "data" / "cub" / "CUB_200_2011" and install(None, tmp_path / "data") == root
    file = read_lists(root).files[5]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=f"1 images are missing or cannot be read: .*{file.name}"):
        install(None, tmp_path / "data")


def test_the_first_classes_are_the_whole_set_without_the_others(drawn, tmp_path):
    with pytest.raises(DataNotFoundError, match="No birds in"):
        install_classes(4, tmp_path)
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub" / "CUB_200_2011").symlink_to(drawn)
    root = install_classes(4, tmp_path)
    few, whole = read_lists(root), read_lists(drawn)
    first = whole.labels < 4
    assert root == tmp_path / "cub4" / "CUB_200_2011" and few.classes == whole.classes[:4]
    for name in ("labels", "training", "boxes", "parts"):
        assert torch.equal(getattr(few, name), getattr(whole, name)[first])
    kept = [path for path, label in zip(whole.files, whole.labels, strict=True) if label < 4]
    assert [path.read_bytes() for path in few.files] == [path.read_bytes() for path in kept]
    assert {path.relative_to(root) for path in root.rglob("*.*g")} == {
        path.relative_to(drawn) for path in kept
    }
