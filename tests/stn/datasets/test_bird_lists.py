"""The official lists of the birds, and what is refused of them."""

import pytest

from stn.datasets.bird_lists import BODY, HEAD, PARTS, read_lists


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


def edit(path, key, value):
    """Gives the line of a key another value."""
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{key} {value}\n" if line.split()[0] == key else f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"1 lists are missing in .*: classes\.txt"),
        (lambda root: (root / "images.txt").write_text("1 a.jpg\n"), "do not agree with each other"),
        (lambda root: (root / "parts" / "part_locs.txt").write_text("1 2\n"), "do not agree with each other"),
        (lambda root: (root / "parts" / "part_locs.txt").write_text("1 0 5 5 1\n"), "0 is not in range"),
        (
            lambda root: (root / "parts" / "part_locs.txt").write_text("1 1 inf 5 1\n"),
            "inf is no finite number",
        ),
        (lambda root: edit(root / "bounding_boxes.txt", "1", "nan 0 9 9"), "nan is no finite number"),
        (lambda root: edit(root / "train_test_split.txt", "1", "2"), "KeyError: '2'"),
        (
            lambda root: edit(root / "images.txt", "1", "../../mine.jpg"),
            r"\.\./\.\./mine\.jpg is no path in images/",
        ),
        (lambda root: edit(root / "images.txt", "1", "/mine.jpg"), "/mine.jpg is no path in images/"),
        (lambda root: (root / "images.txt").write_bytes(b"1 \xff\n"), "UnicodeDecodeError"),
    ],
)
def test_damaged_lists_are_refused(mine, damage, message):
    damage(mine)
    with pytest.raises(ValueError, match=message):
        read_lists(mine)
