"""What is compared computes the same thing; the page and the paragraph in docs/speed.md say what was measured."""

import json
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import baselines, birds, data, processes, training
from experiments.benchmarks.page import page_markdown, paragraph, section_markdown, text, write_page
from experiments.benchmarks.suites import SUITES, merge, run_suites
from experiments.benchmarks.timing import Timing, comparison, largest_difference
from experiments.engine.build import UserError
from experiments.report import pictures

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("experiment", sorted(baselines.DISTORTIONS))
def test_our_distortion_is_torchvisions(experiment):
    assert data.check_distortion(experiment, "torchvision") < 1e-4


def test_the_libraries_warps_are_ours():
    pytest.importorskip("kornia")
    assert data.check_kornia_affine() < 1e-4
    for transform in ("affine", "projective", "tps"):
        assert data.check_warp(transform, 2) < 1e-3


@pytest.mark.parametrize("model", ["fcn", "cnn", "st_fcn", "st_cnn"])
@pytest.mark.parametrize("experiment", ["mnist_r", "mnist_rts"])
def test_the_plain_twin_is_the_same_network(model, experiment):
    assert training.check_network(model, 8, experiment) < 1e-4


def test_two_sides_that_differ_are_not_timed():
    with pytest.raises(RuntimeError, match="they do not compute the same thing"):
        largest_difference(torch.zeros(3), torch.tensor([0.0, 0.1, 0.0]), 1e-3, "case")
    with pytest.raises(RuntimeError, match="differ"):
        largest_difference(torch.zeros(1), torch.tensor([float("nan")]), 1e-3, "case")
    with pytest.raises(ValueError, match="twin differs"):
        baselines.copy_parameters(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))


@pytest.mark.parametrize("kind", ["torchvision", "functional", "PIL"])
def test_a_torchvision_data_set_gives_float_digits(kind):
    image, _ = baselines.TorchvisionDigits("mnist_r", 4, kind)[3]
    assert image.dtype == torch.float32 and image.shape == (1, 28, 28) and 0.5 < image.max() <= 1


def test_a_birds_stages_are_those_of_its_network():
    for stage in birds.STAGES:
        work = birds.bird_stage("cub_2st_448", stage)
        work.call()
        assert work.units == birds.BATCH
    with pytest.raises(ValueError, match="A CNN has no sampling"):
        birds.bird_stage("cub_cnn_224", "sampling")


def test_operations_are_counted_per_image_of_the_plain_network():
    # conv1 20^2*81*w, conv2 4^2*49*w^2, three products of 2 operations each but no gradient of the ST-CNN's input
    # image; the localisation network and the classifier add little at width 64.
    one = training.step_flops(28, 1, 64)
    forward = 2 * (400 * 81 * 64 + 16 * 49 * 64 * 64)
    assert 3 * forward < one < 3.15 * forward
    assert training.step_flops(28, 256, 64) == 256 * one


def row(theirs=0.1, case="ST-CNN affine, width 64"):
    timings = Timing("ours", [0.1] * 3), Timing("plain", [theirs] * 3)
    return comparison(case, *timings, at_least=3.0, difference=1.24e-7)


def section(*rows, device="cpu: A, 2 threads", bf16=True, date="2026-01-01"):
    return {
        "device": device, "bf16_in_hardware": bf16, "rounds": 3, "date": date, "versions": {"torch": "2"},
        "git_revision": "0123456789", "git_dirty": False, "rows": list(rows),
    }  # fmt: skip


def measured():
    return {"train": [section(row(0.4), row(0.3, "ST-CNN affine, without data"))]}


def test_a_row_holds_numbers_with_units_and_the_page_writes_them():
    held = row(0.4)
    assert held["ours_ms"] == pytest.approx(100) and held["theirs_ms"] == pytest.approx(400)
    assert held["times_as_fast"] == pytest.approx({"q1": 4, "median": 4, "q3": 4}) and held["reached"] is True
    assert comparison("", Timing("", [0.01]), Timing("", [0.5]), at_least=None, difference=0.0, rate=True) == {
        "case": "", "against": "", "ours_images_per_second": 100.0, "theirs_images_per_second": 2.0,
        "times_as_fast": {"q1": 50.0, "median": 50.0, "q3": 50.0}, "at_least": None, "reached": None,
        "largest_difference": 0.0,
    }  # fmt: skip
    lines = section_markdown("train", section(held, row(0.2))).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert cells[0] == [
        "case", "against", "ours, ms", "theirs, ms", "times as fast (quartiles)", "at least", "reached",
        "largest difference",
    ]  # fmt: skip
    assert cells[2] == [
        "ST-CNN affine, width 64", "plain", "100.0", "400.0", "4.00 (4.00–4.00)", "3", "yes", "1e-07",
    ]  # fmt: skip
    assert cells[3][4:7] == ["2.00 (2.00–2.00)", "3", "**no**"]
    assert lines[-1] == "- 2026-01-01; 3 rounds; torch 2; git revision 0123456."


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("ours_images_per_second", 309158.4, "309,158"), ("gflop", 32.7712, "32.77"), ("gflop", 4.1, "4.1"),
        ("sampling_percent", 1.4, "1"), ("mean_error_percent", 0.96, "0.960"), ("seconds", 3.334, "3.33"),
        ("megabytes", 1278.4, "1278"), ("largest_difference", 0.0, "0e+00"), ("side", 128, "128"),
        ("at_most", 1.5, "1.5"), ("reached", None, ""), ("case", "R", "R"),
    ],
)  # fmt: skip
def test_every_unit_has_its_format(key, value, written):
    assert text(key, value) == written


def test_page_and_paragraph_are_made_of_the_measured_rows(tmp_path):
    path, readme = tmp_path / "benchmarks.json", tmp_path / "README.md"
    path.write_text(json.dumps(measured()))
    readme.write_text("Before.\n<!-- performance -->\nold\n<!-- /performance -->\nAfter.\n")
    assert write_page(path, page=readme) == [tmp_path / "benchmarks.md", readme]
    assert "4.00 (4.00–4.00)" in (tmp_path / "benchmarks.md").read_text()
    paragraph = readme.read_text()
    assert "4.0 times as fast" in paragraph and "(3.0 times without its data pipeline)" in paragraph
    assert paragraph.startswith("Before.\n") and paragraph.endswith("After.\n") and "old" not in paragraph


def test_the_plot_says_of_which_network_and_machine_it_is_and_what_the_limit_is(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or path)
    sizes = [
        {"side": side, "batch": batch, "width": 4, "step_ms": 2.0 * side, "limit_ms": side}
        for side, batch in ((28, 64), (42, 64), (28, 128))
    ]
    (tmp_path / "b.json").write_text(json.dumps({"size": [section(*sizes, device="cpu: A, 2 threads")]}))
    write_page(tmp_path / "b.json")
    (figure,) = drawn
    assert figure._suptitle.get_text().startswith("ST-CNN (affine): time of a training step")
    assert figure._suptitle.get_text().endswith("(A, 2 threads)")
    assert "floating-point operations of the step" in figure.legends[0].get_title().get_text()
    step, limit = figure.axes[0].lines
    assert (list(step.get_ydata()), list(limit.get_ydata())) == ([56, 84], [28, 42])


def test_each_machine_has_figures_of_its_own_and_says_whether_it_multiplies_bf16():
    held = measured()
    other = {"device": "cpu: B, 2 threads", "bf16": False}
    merge(held, "train", section(row(0.2), row(0.15, "ST-CNN affine, without data"), **other))
    page, words = page_markdown(held), paragraph(held)
    a, b = (page.index(f"### train on cpu: {name}, 2 threads, which {how} bfloat16 in hardware")
            for name, how in (("A", "multiplies"), ("B", "does not multiply")))  # fmt: skip
    assert a < page.index("4.00 (4.00–4.00)") < b < page.index("2.00 (2.00–2.00)")
    b = words.index("On cpu: B, 2 threads, which does not multiply bfloat16 in hardware:")
    assert words.index("On cpu: A") < words.index("4.0 times as fast") < b < words.index("2.0 times as fast")
    merge(held, "train", section(row(0.8), device="cpu: A, 2 threads", date="2026-01-02"))
    assert [(one["device"], one["date"]) for one in held["train"]] == [
        ("cpu: B, 2 threads", "2026-01-01"), ("cpu: A, 2 threads", "2026-01-02"),
    ]  # fmt: skip


def test_the_accuracy_is_of_the_results():
    def result(seed, error, seconds):
        return {
            "metrics": {"test_error": error},
            "seed": seed,
            "precision": "p",
            "wall_seconds": seconds,
            "device": "d",
        }

    held = {
        "fast": [result(0, 1.0, 60), result(1, 2.0, 120), result(2, 3.0, 180)],
        "plain": [result(0, 1.0, 60), result(1, 1.5, 60), result(2, 2.0, 60)],
    }
    fast, plain = processes.error_rows(held)
    assert (fast["mean_error_percent"], fast["standard_deviation_points"], fast["training_minutes"]) == (
        2,
        1,
        2,
    )
    assert (fast["over_plain_points"], fast["spread_points"], fast["reached"]) == (0.5, 1, True)
    assert plain["seed_1_error_percent"] == 1.5 and "reached" not in plain


def test_a_missing_file_or_place_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="measure first"):
        write_page(tmp_path / "none.json")
    (tmp_path / "b.json").write_text(json.dumps(measured()))
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(UserError, match="no place for the paragraph"):
        write_page(tmp_path / "b.json", page=tmp_path / "README.md")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_its_suite_is_skipped_and_the_file_left_alone(tmp_path, capsys):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(measured()))
    assert (
        run_suites(["gpu"], rounds=3, path=path, show=section_markdown)
        == measured()
        == json.loads(path.read_text())
    )
    assert capsys.readouterr().out == "gpu is skipped: it needs a CUDA device.\n"
    assert "Not run on a GPU yet" in page_markdown(measured())


def test_what_is_measured_is_merged_with_where_and_when(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "train", lambda rounds: [row(rounds)])
    path = tmp_path / "b.json"
    held = run_suites(["train"], rounds=3, path=path, show=section_markdown)
    (one,) = held["train"]
    assert json.loads(path.read_text()) == held and one["rows"] == [row(3)] and one["rounds"] == 3
    assert one["device"] and isinstance(one["bf16_in_hardware"], bool) and "torch" in one["versions"]


def test_published_page_and_readme_are_in_step_with_what_was_measured():
    held = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    assert set(held) == set(SUITES) - {"gpu"}
    assert (ROOT / "results" / "benchmarks.md").read_text() == page_markdown(held)
    assert paragraph(held) in (ROOT / "docs" / "speed.md").read_text()
