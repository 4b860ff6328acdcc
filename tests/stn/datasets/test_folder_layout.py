"""What a folder of images is taken for, and every folder that is taken for nothing."""

from pathlib import Path

import pytest

from stn.datasets.folder_layout import content_of, read_layout
from stn.files import DataNotFoundError


def fill(root: Path, *names: str) -> Path:
    """Files, each with its own name as content."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def images(root, layout, part):
    """Class and file of the images of a part."""
    each = zip(layout.files, layout.labels, layout.parts, strict=True)
    return [(layout.classes[label], str(file.relative_to(root))) for file, label, of in each if of == part]


@pytest.mark.parametrize("other", ["val", "valid", "validation", "test", "Test"])
def test_the_one_folder_beside_train_is_to_test_on(tmp_path, other):
    names = ["train/ant/1.png", "train/bee/1.JPG", "train/bee/2.tiff", f"{other}/bee/1.png"]
    layout = read_layout(fill(tmp_path, *names))
    assert layout.classes == ["ant", "bee"]  # a class may be missing there
    assert images(tmp_path, layout, "train") == [("ant", names[0]), ("bee", names[1]), ("bee", names[2])]
    assert images(tmp_path, layout, "test") == [("bee", names[3])]
    assert layout.count("validation") == 0 and layout.folders == {"train": "train", "test": other}


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_of_two_val_is_to_validate_on_and_test_to_test_on(tmp_path, val):
    names = [f"{part}/{name}/1.png" for part in ("train", val, "test") for name in ("ant", "bee")]
    layout = read_layout(fill(tmp_path, *names))
    for part, folder in (("train", "train"), ("validation", val), ("test", "test")):
        assert images(tmp_path, layout, part) == [(name, f"{folder}/{name}/1.png") for name in ("ant", "bee")]


def test_without_train_each_folder_is_a_class(tmp_path):
    layout = read_layout(
        fill(tmp_path, "valid/1.png", "valid/2.png", "invalid/1.png")
    )  # these are classes here
    assert layout.classes == ["invalid", "valid"]
    assert images(tmp_path, layout, None) == [
        ("invalid", "invalid/1.png"), ("valid", "valid/1.png"), ("valid", "valid/2.png"),
    ]  # fmt: skip


def test_what_is_no_image_is_skipped_if_the_system_put_it_there_and_else_counted(tmp_path):
    hidden = [
        ".git/x.png",
        "__MACOSX/ant/._1.png",
        "ant/.DS_Store",
        "ant/._1.png",
        "ant/.thumbs/1.png",
        "ant/__MACOSX/1",
    ]
    others = ["ant/2.gif", "ant/3.GIF", "bee/4.heic", "bee/notes", "labels.csv", "cover.png"]
    layout = read_layout(fill(tmp_path, "ant/1.png", "bee/1.webp", *hidden, *others, "bee/annotations/1.xml"))
    assert layout.classes == ["ant", "bee"] and len(layout.files) == 2
    assert layout.left_out == {".gif": 2, ".heic": 1, "without an ending": 1, "outside of a class": 2}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "cannot be read (No such file or directory)"),
        (["1.png", "2.png"], "holds 2 files and no folders"),
        (["train/1.png", "test/1.png"], "train holds 1 files and no folders"),
        (["train/ant/1.png", "train/bee/1.png", "test/1.png"], "test holds 1 files and no folders"),
        (["train/a/1.png", "train/b/1.png"], "holds train/ and nothing to test on"),
        (["train/a/1.png", "train/b/1.png", "testing/a/1.png"], "holds train/ and beside it testing/"),
        (["train/a/1.png", "val/a/1.png", "more/a/1.png"], "holds train/ and beside it more/"),
        (["car/1.png", "bus/1.png", "train/1.png"], "beside it bus/, car/: dataset.root=FOLDER is a folder"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "holds val/ and valid/, which mean the same"),
        (["training/a/1.png", "testing/a/1.png"], "testing holds folders of images, a/, and a class is one folder"),
        (["a/1.png", "b/x/y/1.png"], "b holds folders of images, x/"),
        (["a/1.png"], "holds one class, a, and there is nothing to tell it from"),
        (["train/a/1.png", "val/a/1.png"], "holds one class, a"),
        (["a/1.png", "b/1.png", "c/1.gif", "d/notes.txt"], "c/, d/ of {root} hold no images (.bmp, "),
        (["train/a/1.png", "train/b/1.gif", "val/a/1.png"], "b/ of {root}/train holds no images"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png", "val/b/2.png"], "val has classes that train/ has not: c/"),
        (["train/a/1.png", "train/b/1.png", "val/b/2.gif"], "val holds b/, and no images in them"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_by_what_was_found(tmp_path, names, message):
    root = fill(tmp_path / "mine", *names)
    with pytest.raises((ValueError, DataNotFoundError)) as refused:
        read_layout(root)
    assert message.format(root=root) in str(refused.value) and str(root) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_content_is_that_of_the_images_whatever_the_folder_is_called(tmp_path, monkeypatch):
    names = ["train/ant/1.png", "train/bee/1.png", "val/bee/1.png", "test/bee/1.png"]
    root = fill(tmp_path / "mine", *names)
    first = content_of(read_layout(root))
    assert (first["classes"], first["images"], first["validation"]) == (["ant", "bee"], 4, 1)
    monkeypatch.chdir(root)
    (tmp_path / "link").symlink_to(root)
    copy = fill(tmp_path / "elsewhere" / "other", *names)
    for same in (".", "../mine/", f"{root}/../mine", tmp_path / "link", copy):
        assert content_of(read_layout(same)) == first
    fill(root, "train/ant/notes.txt", "train/.2.png")  # no images
    assert content_of(read_layout(root)) == first
    (root / "train/ant/1.png").write_text("TRAIN/ant/1.png")  # as long as before
    changed = [
        root,
        fill(tmp_path / "more", *names, "train/cat/1.png"),
        fill(tmp_path / "renamed", "train/ant/2.png", *names[1:]),
        fill(tmp_path / "moved", *names[:3], "test/ant/1.png"),
    ]
    found = [content_of(read_layout(folder))["sha256"] for folder in changed]
    assert len({first["sha256"], *found}) == 5
