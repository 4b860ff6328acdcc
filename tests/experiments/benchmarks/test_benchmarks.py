"""What is compared computes the same thing; the page and the paragraph in docs/speed.md say what was measured."""

import json
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import data, peers, photographs, training
from experiments.benchmarks.page import page_markdown, paragraph, run_suites, write_page
from experiments.benchmarks.rows import same, versus
from experiments.benchmarks.suites import SUITES
from experiments.benchmarks.timing import Timing
from experiments.engine.build import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("experiment", sorted(peers.DRAWS))
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
        same(torch.zeros(3), torch.tensor([0.0, 0.1, 0.0]), 1e-3, "case")
    with pytest.raises(RuntimeError, match="differ"):
        same(torch.zeros(1), torch.tensor([float("nan")]), 1e-3, "case")
    with pytest.raises(ValueError, match="twin differs"):
        peers.copy_parameters(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))


@pytest.mark.parametrize("kind", peers.KINDS)
def test_a_torchvision_data_set_gives_float_digits(kind):
    image, _ = peers.TorchvisionDigits("mnist_r", 4, kind)[3]
    assert image.dtype == torch.float32 and image.shape == (1, 28, 28) and 0.5 < image.max() <= 1


def test_a_birds_stages_are_those_of_its_network():
    for stage in photographs.STAGES:
        call, work = photographs.bird_stage("cub_2st_448", stage)
        call()
        assert work == photographs.BATCH
    with pytest.raises(ValueError, match="A CNN has no sampling"):
        photographs.bird_stage("cub_cnn_224", "sampling")


def test_operations_are_counted_per_image_of_the_plain_network():
    # conv1 20^2*81*w, conv2 4^2*49*w^2, three products of 2 operations each but no gradient of the ST-CNN's input
    # image; the localisation network and the classifier add little at width 64.
    one = training.step_flops(28, 1, 64)
    forward = 2 * (400 * 81 * 64 + 16 * 49 * 64 * 64)
    assert 3 * forward < one < 3.15 * forward
    assert training.step_flops(28, 256, 64) == 256 * one


def row(median=0.1):
    return versus(
        "ST-CNN affine, width 64", Timing("ours", [0.1] * 3), Timing("plain", [median] * 3), 3.0, 1e-7
    )


def test_a_row_says_whether_the_aim_was_reached():
    assert row(0.4)["times as fast (quartiles)"] == "4.00 (4.00–4.00)" and row(0.4)["reached"] == "yes"
    assert row(0.2)["reached"] == "**no**"


def measured():
    common = {
        "notes": ["A note."], "machine": "cpu", "versions": {"torch": "2"}, "git_revision": "0123456789",
        "git_dirty": False, "date": "2026-01-01", "rounds": 3,
    }  # fmt: skip
    train = {"title": "train: a step", "rows": [row(0.4), row(0.3) | {"case": "ST-CNN affine, without data"}]}
    return {"train": common | train}


def test_page_and_paragraph_are_made_of_the_measured_rows(tmp_path):
    path, page = tmp_path / "benchmarks.json", tmp_path / "speed.md"
    path.write_text(json.dumps(measured()))
    page.write_text("Before.\n<!-- performance -->\nold\n<!-- /performance -->\nAfter.\n")
    assert write_page(path, page=page) == [tmp_path / "benchmarks.md", page]
    tables = (tmp_path / "benchmarks.md").read_text()
    assert (
        "4.00 (4.00–4.00)" in tables and "2026-01-01; cpu; 3 rounds; torch 2; git revision 0123456." in tables
    )
    text = page.read_text()
    assert "4.0 times as fast" in text and "(3.0 times without its data pipeline)" in text
    assert text.startswith("Before.\n") and text.endswith("After.\n") and "old" not in text


def test_a_missing_file_or_place_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="measure first"):
        write_page(tmp_path / "none.json")
    (tmp_path / "b.json").write_text(json.dumps(measured()))
    (tmp_path / "speed.md").write_text("no marks")
    with pytest.raises(UserError, match="no place for the paragraph"):
        write_page(tmp_path / "b.json", page=tmp_path / "speed.md")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_its_suite_says_so_and_is_merged_beside_the_others(tmp_path, capsys):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(measured()))
    held = run_suites(["gpu"], rounds=3, path=path)
    assert set(held) == {"train", "gpu"} == set(json.loads(path.read_text()))
    assert "Skipped: no CUDA device." in capsys.readouterr().out


def test_published_pages_are_in_step_with_what_was_measured():
    held = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    assert set(held) == set(SUITES)
    assert (ROOT / "results" / "benchmarks.md").read_text() == page_markdown(held)
    assert paragraph(held) in (ROOT / "docs" / "speed.md").read_text()
