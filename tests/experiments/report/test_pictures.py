"""What all pictures share: colours that colour-blind readers tell apart, titles and legends that fit the page."""

import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report import details
from experiments.report.pictures import LINES, STYLES, head, line, shorten, show
from experiments.report.subject import Score, Words
from experiments.sections.figures import COLOURS

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB to what a reader without one kind of cones sees.
BLIND = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, blind):
    """CIE L*a*b* (D65) of "#rrggbb", as a reader sees it."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ (blind @ linear).clip(0, 1) / XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours):
    """The least distance between two of some colours, over all kinds of sight. About 2 is just noticeable."""
    return min(
        math.dist(lab(a, blind), lab(b, blind))
        for blind in BLIND.values()
        for a, b in itertools.combinations(colours, 2)
    )


def test_the_measure_knows_red_and_green():
    assert (
        nearest(["#ff0000", "#808000"])
        < 25
        < 60
        < math.dist(*(lab(c, np.eye(3)) for c in ("#ff0000", "#808000")))
    )
    assert lab("#ffffff", np.eye(3)) == pytest.approx([100, 0, 0], abs=0.1)


def test_windows_differ_for_every_reader_and_from_a_black_image():
    assert nearest(COLOURS) > 30
    assert min(nearest([colour, "#000000"]) for colour in COLOURS) > 45
    assert nearest([COLOURS[0], "#ffffff"]) > 30  # a predicted box beside the true one


def test_lines_differ_for_every_reader_and_the_next_ones_by_their_style():
    assert nearest(LINES) > 15
    looks = [tuple(line(k).values()) for k in range(12)]
    assert len(set(looks)) == 12 and {style for _, style in looks} == set(STYLES)


@pytest.mark.parametrize("width", [5.0, 8.3, 14.0])
def test_title_note_and_legend_stay_on_the_page_and_off_the_axes(width):
    figure = Figure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots()
    names = ["a rather long name of what the first line shows", "short"]
    head(figure, "word and another word " * 9, note="all that is to be said " * 9, handles=[
        Line2D([], [], label=name) for name in names
    ])  # fmt: skip
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    title, below = (artist.get_window_extent() for artist in (figure._suptitle, figure.legends[0]))
    for box in (title, below):
        assert (
            box.x0 >= page.x0 - 1
            and box.x1 <= page.x1 + 1
            and box.y0 >= page.y0 - 1
            and box.y1 <= page.y1 + 1
        )
    assert below.y1 <= axes.get_window_extent().y0 and axes.get_window_extent().y1 <= title.y0 + 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


@pytest.mark.parametrize("height", [2.0, 12.0])
def test_a_grid_of_images_has_no_empty_rows(height):
    figure = Figure(figsize=(6, height), layout="constrained")
    for axes in figure.subplots(2, 4).flat:
        show(axes, torch.zeros(1, 8, 8))
    head(figure, "title", note="a note")
    shorten(figure)
    FigureCanvasAgg(figure).draw()
    first, *_, last = (axes.get_window_extent() for axes in figure.axes)
    if height < 3:
        assert figure.get_figheight() == height  # low already: it is not stretched
    else:
        assert 0 < first.y0 - last.y1 < 0.2 * first.height
        assert figure._suptitle.get_window_extent().y0 - first.y1 < 0.2 * first.height


def test_a_run_is_told_in_plain_words():
    run = {"experiment": "mine", "dataset": "mnist", "model": "st_cnn", "transform": "tps"}
    words = Words({"mine": "turned digits"})
    told = words.subject(run)
    assert told.title(f"{told.network} on {told.data}") == "ST-CNN (thin plate spline) on turned digits"
    finished = {**run, "metrics": {"test_error": 0.625}, "iterations": 8000, "trainer": "fast", "seed": 3}
    told = words.subject(finished)
    assert told.title("It works").replace("\N{NO-BREAK SPACE}", " ") == "It works: test error 0.62 %"
    assert told.training == "8,000 steps, schedule fast, seed 3"
    assert told.note("All digits.") == "All digits. Training: 8,000 steps, schedule fast, seed 3."
    assert words.subject(run).note("All digits.") == "All digits."
    several = Words({"mine": "turned digits"}, variant=lambda run: f"up to {run['config']['most']}")
    assert several.subject({**run, "config": {"most": 30}}).data == "turned digits (up to 30)"
    other = Words(score=Score("found", "found {:.0f} times")).subject(
        {**finished, "model": "my_net", "transform": None}
    )
    assert (other.network, other.data, other.score) == ("MY-NET", "mnist", "")


def test_curves_of_training_batches_are_drawn_as_running_means_and_others_as_they_are(monkeypatch):
    monkeypatch.setattr(details, "SMOOTH", 2)  # of four values, each is the mean of two
    log = {
        "train/error": {1: 4.0, 2: 2.0, 3: 2.0, 4: 0.0},
        "val/error": {2: 9.0, 4: 1.0},
        "train/loss": {1: 1.0},
    }
    assert details.drawn(log, "error") == {
        "training batches, running mean": {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0},
        "held-out images": {2: 9.0, 4: 1.0},
    }
    assert details.drawn({"val/loss": {}}, "loss") == {}
