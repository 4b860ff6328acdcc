"""Where data are looked for, and how problems with them are listed."""

from pathlib import Path

from stn.files import list_problems, resolve_data_dir


def test_resolve_data_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    assert resolve_data_dir() == Path("data")
    monkeypatch.setenv("STN_DATA_DIR", "")
    assert resolve_data_dir() == Path("data")
    monkeypatch.setenv("STN_DATA_DIR", "/elsewhere")
    assert resolve_data_dir() == resolve_data_dir("") == Path("/elsewhere")
    assert resolve_data_dir("mine") == resolve_data_dir(Path("mine")) == Path("mine")
    assert resolve_data_dir("~/mine") == Path.home() / "mine"


def test_five_problems_are_named_and_the_others_counted():
    names = [f"{i}.png" for i in range(7)]
    assert list_problems(names[:1], "images are missing") == "1 images are missing: 0.png"
    expected = "7 images are missing: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more"
    assert list_problems(names, "images are missing") == expected
