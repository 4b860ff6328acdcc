"""The animation of a training: which snapshots it shows, what it says, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from experiments.analysis import animation
from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.sections.figures.drawing import COLOURS, RED
from stn.models.mnist import st_fcn
from stn.transforms import Affine


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    """A finished run of 16 steps on four images, with a snapshot a step."""
    folder = tmp_path / "run"
    model = st_fcn((1, 12, 12), transform=Affine(), width=4)
    for step in range(17):
        checkpoint.save(checkpoint.snapshot_path(folder, step), model.state_dict())
        with torch.no_grad():
            next(model.transformers.parameters()).add_(0.1)
    result = Result(
        experiment="mnist_rts", dataset="mnist", model="st_fcn", transform="affine", trainer="fast", seed=0,
        metrics={"test_error": 1.234}, width=4, parameters=1, iterations=16, wall_seconds=1.0, images_per_second=1.0,
        git_revision="0123456789", git_dirty=False, versions={}, device="cpu", test_fingerprint="ab", config_hash="",
        config={"seed": 0},
    )  # fmt: skip
    result.write(folder / "result.json")
    images = torch.arange(4 * 144).reshape(4, 1, 12, 12).remainder(256).byte()
    data = SimpleNamespace(test=SimpleNamespace(images=images, labels=torch.tensor([1, 0, 1, 2])))
    monkeypatch.setattr(animation, "load_run", lambda *_: (data, model, {}))
    return folder


def test_snapshots_become_frames_and_the_page_says_what_they_are_of(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "FRAMES", 5)
    out, page = tmp_path / "pictures" / "a.gif", tmp_path / "page.md"
    page.write_text("before\n<!-- animation -->\nold\n<!-- /animation -->\nafter\n")
    titles = []
    drawn = animation._frame
    monkeypatch.setattr(animation, "_frame", lambda *given: titles.append(given[-1]) or drawn(*given))
    result = animation.animate(run_dir, out, [page])
    steps = (0, 1, 4, 9, 16)  # closer together at the start
    expected = [f"ST-FCN affine, RTS: after {step} of 16 steps" for step in steps]
    assert titles == [*expected[:-1], f"{expected[-1]}, test error 1.23 %"]
    with Image.open(out) as picture:
        assert picture.n_frames == 5
        assert picture.size == (3 * 90 + 62, 2 * 90 + 80)  # the first image of each of three classes
        picture.seek(4)
        assert picture.info["duration"] == 3000
    assert Result.read(out.with_suffix(".json")) == result == Result.read(run_dir / "result.json")
    lines = [line for line in page.read_text().splitlines() if not line.startswith("<!--")]
    assert (lines[0], lines[-1]) == ("before", "after") and lines[1].endswith("](<pictures/a.gif>)")
    assert "of 16 steps: 5 snapshots" in lines[3] and "at the end: 1.23 %" in lines[3]


def test_a_frame_names_its_rows_and_marks_wrong_classes_and_the_window(run_dir, monkeypatch):
    written = []
    text = ImageDraw.ImageDraw.text

    def write(self, place, words, *more):
        written.append(words)
        return text(self, place, words, *more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    torch.manual_seed(0)
    model = st_fcn((1, 12, 12), transform=Affine(), width=4).eval()
    images = torch.rand(3, 1, 12, 12)
    predicted = model(images)[0].argmax(1)
    labels = predicted.clone()
    labels[1] = (labels[1] + 1) % 10
    frame = animation._frame(model, images, labels, "title")
    assert {"title", "input", "output", "window of the transformer, thick at its top"} <= set(written)
    classes = [f"{predicted[0]}", f"\N{BALLOT X} {predicted[1]} (is {labels[1]})", f"{predicted[2]}"]
    assert written[-3:] == classes
    colours = {colour for _, colour in frame.convert("RGB").getcolors(1 << 20)}
    for wanted in (COLOURS[0], RED):
        rgb = ImageColor.getrgb(wanted)
        assert min(sum(abs(a - b) for a, b in zip(rgb, one, strict=True)) for one in colours) < 45


def test_runs_without_snapshots_and_pages_without_a_place_are_refused(run_dir, tmp_path):
    (tmp_path / "page.md").write_text("no place\n")
    with pytest.raises(UserError, match=r"page\.md has no place for the animation"):
        animation.animate(run_dir, tmp_path / "a.gif", [tmp_path / "page.md"])
    (run_dir / "snapshots").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"snapshots: train it to its end with trainer\.snapshot_every=10"):
        animation.animate(run_dir, tmp_path / "a.gif")
