"""The geometry that pictures show, against hand-computed cases; and that every picture is made."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import stn
from experiments.engine import rundir
from experiments.engine.classes import write_classes
from experiments.engine.run import run
from experiments.report.pictures import from_files, training_batch
from experiments.report.subject import Subject
from experiments.sections import SECTIONS
from experiments.sections.figures import (
    aligned_digits,
    boxes,
    class_means,
    classification,
    crops,
    examples,
    outline,
    pairs,
    pose_histograms,
    right_and_wrong,
    whole_sets,
    windows_over_steps,
)
from stn.datasets.digits import load_digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.distortions import rotate
from stn.models.mnist import cnn
from stn.transforms import pose

SUBJECT = Subject("ST-CNN (affine)", "rotated digits (R)", "test error 0.58 %", "4 steps, seed 0")


class Windows(torch.nn.Module):
    """Says of each image what a dictionary holds, looking through windows that stand still."""

    def __init__(self, said, count=1, transform=None):
        super().__init__()
        self.transformers = SimpleNamespace(transform=transform or stn.Affine(), count=count)
        self.said, self.seen = said, 0
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        self.seen += len(images)
        found = torch.tensor([self.said.get(pixels(image), 0) for image in images])
        count, theta = self.transformers.count, self.transformers.transform.identity()
        warped = images[:, None].expand(-1, count, *images.shape[1:])
        aux = {"theta": theta.expand(len(images), count, -1), "warped": warped}
        return torch.nn.functional.one_hot(found, 10).float(), aux


def pixels(image):
    return (image * 255).round().to(torch.uint8).numpy().tobytes()


def rotated(wrong):
    """Rotated test digits, and a model that has some of them wrong, by their index: it says the next class."""
    data = DistortedDigits(load_digits(), rotate)
    each = enumerate(zip(data.test.images, data.test.labels.tolist(), strict=True))
    return data, Windows({pixels(image / 255): (label + (i in wrong)) % 10 for i, (image, label) in each})


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written, by the name of their file."""
    found = {}

    def keep(figure, path, *, dpi=130):
        found[path.name] = figure
        figure.set_dpi(dpi)
        return path

    for module in (classification, boxes, whole_sets):
        monkeypatch.setattr(module, "save", keep)
    return found


def words(figure):
    """All that title, note and legend say, in one line."""
    (legend,) = figure.legends
    texts = [figure._suptitle, legend.get_title(), *legend.get_texts()]
    return " ".join(" ".join(text.get_text() for text in texts).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_identitys_outline_is_the_images_frame():
    lines = outline(stn.Affine(), stn.Affine().identity(), (20, 40))
    assert len(lines) == 4
    np.testing.assert_allclose(lines[0][[0, -1]], [[-0.5, -0.5], [39.5, -0.5]], atol=1e-5)  # upper edge first
    np.testing.assert_allclose(lines[1][[0, -1]], [[-0.5, 19.5], [39.5, 19.5]], atol=1e-5)


def test_a_splines_outline_is_its_lattice():
    spline = stn.ThinPlateSpline((3, 5))
    lines = outline(spline, spline.identity(), (10, 10))
    assert len(lines) == 3 + 5
    np.testing.assert_allclose(lines[1][:, 1], 4.5, atol=1e-4)  # the middle row


@pytest.mark.parametrize("degrees", [-60.0, 0.0, 25.0])
def test_pose_reads_angle_size_and_centre_of_any_family(degrees):
    a, s, x, y = math.radians(degrees), 0.6, 0.2, -0.3
    matrix = [s * math.cos(a), -s * math.sin(a), x, s * math.sin(a), s * math.cos(a), y]
    affine = torch.tensor([matrix])
    spline = stn.ThinPlateSpline()
    points = stn.Affine().map_points(affine, spline.control_points.float())
    for transform, theta in (
        (stn.Affine(), affine),
        (stn.Projective(), torch.tensor([[*matrix, 0.0, 0.0]])),
        (spline, points.reshape(1, -1)),
    ):
        found = pose(transform, theta)
        assert found["angle"].item() == pytest.approx(degrees, abs=0.05)
        assert found["scale"].item() == pytest.approx(s, abs=1e-3)
        assert (found["x"].item(), found["y"].item()) == pytest.approx((x, y), abs=1e-3)


@pytest.mark.parametrize(
    ("model", "names"),
    [("st_cnn", {"examples", "class_means", "poses"}), ("cnn", {"examples", "batch"})],
)
def test_every_picture_is_made(configure, model, names):
    cfg = configure(f"model={model}", "transform=tps")
    cfg.figures = "batch" if "batch" in names else True
    run(cfg, (), SECTIONS)
    pictures = {path.stem: imread(path) for path in rundir.run_dir(cfg).glob("*.png")}
    assert set(pictures) == names | {"curves", "confusion"}
    for picture in pictures.values():
        assert picture.ndim == 3 and picture.std() > 0.05


def test_a_batch_of_volumes_or_without_classes_is_drawn_too(tmp_path):
    solids = torch.zeros(3, 1, 8, 20, 20)
    solids[:, :, :, 5:15, 5:15] = 1
    for images, names in ((solids, ["a", "b", "c"]), (solids[:, :, 0], [])):
        subject = Subject("CNN", "squares")
        path = training_batch(images, torch.arange(3), names, tmp_path / "batch.png", subject)
        picture = imread(path)[..., :3].mean(2)
        assert 0.1 < (picture < 0.1).mean() < 0.7  # black around each square


def test_a_matrix_of_many_classes_is_drawn_too(tmp_path):
    data = SimpleNamespace(num_classes=70, test=SimpleNamespace(labels=torch.arange(70)))
    write_classes(tmp_path, data, torch.arange(70).roll(1))
    (path,) = from_files(tmp_path, Subject("CNN", "digits")).values()  # there is no log, and so no curve
    assert path.name == "confusion.png" and imread(path).std() > 0.05


def test_wrong_cases_are_the_first_ones_beside_those_given():
    data, model = rotated({0, 7, 30, 31, 120, 200, 300})
    chosen, rule = right_and_wrong(model, data.test, [0, 5], "two digits", "digit", 4, batch=100)
    assert chosen == [0, 5, 7, 30, 31, 120] and model.seen == 200  # what comes later is not computed
    assert rule == "Shown: two digits, then the first four other digits that are misclassified."
    _, rule = right_and_wrong(model, data.test, [0], "one", "digit", 9)
    assert rule == "Shown: one, then all six other digits that are misclassified."
    _, rule = right_and_wrong(rotated({2})[1], data.test, [0], "one", "digit", 9)
    assert rule == "Shown: one, then the only other digit that is misclassified."
    _, faultless = rotated(())
    none = right_and_wrong(faultless, data.test, [3], "one", "digit", 4)
    assert none == ([3], "Shown: one; no other digit is misclassified.")


def test_the_figures_of_a_run_say_what_they_show(drawn, tmp_path):
    truth = load_digits().test_labels.tolist()
    wrong = [i for i, label in enumerate(truth) if label in truth[:i]][3:8]  # none the first of its class
    data, model = rotated(wrong)
    aligned = aligned_digits(model, data, tmp_path, SUBJECT)
    assert set(aligned) == {"examples", "class_means", "poses"}
    for figure in drawn.values():
        told = words(figure)
        assert "ST-CNN (affine)" in told and "rotated digits (R)" in told and "test error 0.58 %" in told
        assert "Training: 4 steps, seed 0." in told
    told = words(drawn["examples.png"])
    assert (
        "thick edge: top of the window" in told
        and "the first test digit of each class, then the first four" in told
    )
    below = [axes.get_xlabel() for axes in drawn["examples.png"].axes if axes.get_xlabel()]
    marks = [text for text in below if text.startswith("\N{BALLOT X} ")]
    assert below[:10] == [str(c) for c in range(10)] and below[10:] == marks
    assert marks == [f"\N{BALLOT X} {(truth[i] + 1) % 10} (is {truth[i]})" for i in wrong[:4]]

    # The last row of the class means: the digits as they were, added up one by one.
    means = drawn["class_means.png"].axes[-10:]
    digits, sevens = data.digits, [i for i, label in enumerate(truth) if label == 7]
    expected = sum(digits.test_images[i, 0].double() for i in sevens) / len(sevens)
    shown = means[7].images[0].get_array()
    np.testing.assert_allclose(shown, expected / expected.max(), atol=1e-4)
    assert drawn["class_means.png"].axes[20].get_ylabel() == "undistorted"


def test_the_outline_is_the_histogram_of_what_was_applied(drawn, tmp_path):
    generator = torch.Generator().manual_seed(1)
    windows = [
        {key: torch.randn(300, generator=generator) for key in ("angle", "scale", "x", "y")} for _ in "ab"
    ]
    applied = {key: 2 * torch.rand(500, generator=generator) - 1 for key in ("angle", "scale", "x")}
    applied["y"] = torch.full((500,), 0.25)
    pose_histograms(windows, tmp_path / "poses.png", title="t", applied=applied)
    figure = drawn["poses.png"]
    for axes, key in zip(figure.axes[:3], applied, strict=False):
        first, *_, outline = axes.patches
        bars = axes.patches[
            : len(axes.patches) // 2
        ]  # of the first windows; as many of the second; the outline
        edges = [*(bar.get_x() for bar in bars), bars[-1].get_x() + first.get_width()]
        counts, _ = np.histogram(applied[key].numpy(), edges)
        heights = np.unique(outline.get_xy()[:, 1].round(6))
        assert set(heights) == set((100 * counts / 500).round(6)) | {0.0}
        counts, _ = np.histogram(windows[0][key].numpy(), edges)
        np.testing.assert_allclose([bar.get_height() for bar in bars], counts / 3, atol=1e-4)
        assert (
            axes.get_xlabel().split("bin width ")[1].rstrip("\N{DEGREE SIGN}") == f"{first.get_width():.2g}"
        )
    (same,) = figure.axes[3].lines  # what all digits have in common is a line
    assert list(same.get_xdata()) == [0.25, 0.25] and "0.25 to every digit" in figure.axes[3].get_title()
    assert "applied by the distortion" in words(figure) and "%" in figure.axes[0].get_ylabel()


def test_places_in_whole_pixels_fill_a_bin_each():
    pixels = torch.arange(33.0).repeat(30) / 30 - 0.5
    edges = whole_sets.pose_edges([torch.linspace(-0.6, 0.7, 999), pixels])
    counts, _ = np.histogram(pixels.numpy(), edges)
    assert (counts[counts > 0] == 30).all() and np.count_nonzero(counts) == 33
    assert edges[0] < -0.6 and edges[-1] > 0.7 and (np.diff(np.flatnonzero(counts)) == 1).all()


@pytest.mark.parametrize("transform", [stn.Affine(), stn.ThinPlateSpline((3, 3))])
def test_every_window_has_its_colour_in_the_legend(drawn, transform, tmp_path):
    images, labels = torch.rand(2, 3, 20, 20), torch.tensor([0, 1])
    model = Windows({}, count=2, transform=transform)
    crops(model, images, labels, [*"abcdefghij"], tmp_path / "crops.png", title="t")
    pairs(model, images[:, :2], labels, tmp_path / "pairs.png", title="t")
    boxes_ = torch.tensor([[1.0, 2, 9, 9]] * 2)
    windows_over_steps(images, boxes_, {1: boxes_, "last": boxes_}, tmp_path / "windows.png", title="t")
    for name in ("crops.png", "pairs.png"):
        told = words(drawn[name])
        assert (
            "window of transformer 1" in told and "window of transformer 2" in told and "thick edge" in told
        )
        lines = drawn[name].legends[0].get_lines()
        on_image = {line.get_color() for line in drawn[name].axes[0].lines}
        assert {line.get_color() for line in lines[:2]} == on_image and len(on_image) == 2
    told = words(drawn["windows.png"])
    assert "predicted window" in told and "true box" in told
    styles = [line.get_linestyle() for line in drawn["windows.png"].legends[0].get_lines()]
    assert styles == ["-", ":"]  # as on the images: white dots are the truth


def test_windows_larger_than_the_image_are_seen_in_a_margin_and_plain_images_have_none(drawn, tmp_path):
    class Wide(stn.Affine):
        def identity(self):
            return 1.4 * super().identity()

    images, labels = torch.rand(2, 3, 24, 24), torch.tensor([0, 1])
    for model, left in ((Windows({}, transform=Wide()), -6.5), (cnn((3, 24, 24), width=2).eval(), -0.5)):
        examples(model, images, labels, tmp_path / "examples.png", title="t")
        crops(model, images, labels, [*"abcdefghij"], tmp_path / "crops.png", title="t")
        pairs(model, images, labels, tmp_path / "pairs.png", title="t")
        for figure in drawn.values():
            axes = figure.axes[0]
            assert axes.get_xlim() == (left, 23 - left) and axes.get_ylim() == (23 - left, left)
            assert axes.images[0].get_extent() == [-0.5, 23.5, 23.5, -0.5]
            for line in axes.lines:
                assert left < line.get_xdata().min() and line.get_xdata().max() < 23 - left


def test_crops_have_headers_and_lines_of_two_pixels(drawn, tmp_path):
    model, images = Windows({}, count=4), torch.rand(2, 3, 20, 20)
    path = tmp_path / "crops.png"
    crops(model, images, torch.tensor([0, 1]), [*"abcdefghij"], path, title="t", files=["one.jpg", "two.jpg"])
    each = ["image", *(f"crop {k}" for k in range(1, 5))]
    figure = drawn["crops.png"]
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == each * 2 and figure.axes[0].get_title() == "image\none.jpg"
    assert figure.get_dpi() >= 100
    thinnest = min(line.get_linewidth() for line in figure.axes[0].lines)
    assert thinnest * figure.get_dpi() / 72 >= 2


def test_means_without_the_undistorted_digits_have_no_row_of_them(drawn, tmp_path):
    means = torch.rand(10, 8, 8)
    class_means(means, [means], tmp_path / "means.png", title="t")
    assert len(drawn["means.png"].axes) == 20
