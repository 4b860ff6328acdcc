"""A run tested again: the numbers of result.json on its own data, other numbers on others, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from PIL import Image

from experiments.analysis import evaluate
from experiments.analysis.evaluate import evaluate_run
from experiments.analysis.redraw import redraw
from experiments.analysis.weights import load_result
from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.initial import weights_sha256
from experiments.engine.result import Result
from experiments.engine.run import load_run, run
from stn.datasets.digits import load_digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.distortions import elastic, rotate
from stn.models.weights import Card, save_weights, write_sums
from tests.experiments.conftest import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    cfg = configuration([*TINY, "experiment=mnist_r", f"output_dir={tmp_path_factory.mktemp('trained')}"])
    run(cfg)
    return rundir.run_dir(cfg)


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def error(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        wrong = model(images.float() / 255)[0].argmax(1) != labels
    return 100 * wrong.double().mean().item()


def test_on_its_own_data_it_gives_the_numbers_of_result_json(folder, script):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, said, _ = script("evaluate.py", str(folder), "device=cpu", "threads=1")
    assert code == 0 and "the weights of step 4, the last\ndata     those of the run\n" in said
    held = json.loads(before["result.json"])
    content = json.loads((folder / "evaluations" / "step_4.json").read_text())
    assert content["metrics"] == held["metrics"] and content["test_fingerprint"] == held["test_fingerprint"]
    assert content["weights"] == weights_sha256(folder) and content["differs"] == []
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_hash_is_of_the_weights_that_were_tested(folder, monkeypatch):
    tested = weights_sha256(folder)
    # The training goes on, and writes another checkpoint, once the network is loaded.
    monkeypatch.setattr(evaluate, "check", lambda cfg: (folder / "last.pt").write_bytes(b"another"))
    _, path = evaluate_run(folder, ["device=cpu", "threads=1"])
    assert json.loads(path.read_text())["weights"] == tested


def test_the_figures_of_a_run_are_drawn_again(folder, script):
    before = (folder / "result.json").read_bytes()
    code, said, _ = script("evaluate.py", "--figures", str(folder))
    names = {"examples.png", "class_means.png", "poses.png", "curves.png", "confusion.png"}
    assert code == 0 and {Path(line).name for line in said.splitlines()} == names
    assert {path.name for path in folder.glob("*.png")} == names
    assert (folder / "result.json").read_bytes() == before and not (folder / "evaluations").exists()
    for word in ("dataset.distort.max_angle=180", "device=cpu"):
        code, _, said = script("evaluate.py", str(folder), "--figures", word)
        assert code == 2 and f"{word} is not valid: figures are of the run's own data" in said
    changed = json.loads(before)
    (folder / "result.json").write_text(json.dumps({**changed, "test_fingerprint": "other"}))
    with pytest.raises(UserError, match="other test images than the run had"):
        redraw(folder)


def test_the_figures_of_a_published_run_are_drawn_of_its_published_network(folder, tmp_path):
    _, model, _ = load_run(folder)
    published, weights = tmp_path / "results" / "runs" / "mnist_r" / "mine-seed_0.json", tmp_path / "weights"
    published.parent.mkdir(parents=True)
    shutil.copyfile(folder / "result.json", published)
    weights.mkdir()
    (weights / "SHA256SUMS").write_text("")
    with pytest.raises(UserError, match="mnist_r/mine-seed_0 is not among the published weights"):
        redraw(published, (), weights)
    card = Card(
        "st_cnn", (1, 28, 28), {"num_classes": 10, "width": 4}, "Affine", {}, "mnist_r/mine-seed_0", 0, 0, ""
    )
    save_weights(weights / "mnist_r" / "st_cnn-affine.safetensors", model, card)
    write_sums(weights)
    data, network = load_result(Result.read(published), {}, weights)
    images = data.test.images[:50].float() / 255
    torch.testing.assert_close(network(images)[0], model(images)[0], rtol=0.01, atol=0.01)  # half precision
    drawn = redraw(published, (), weights)
    folder_of_figures = tmp_path / "results" / "figures" / "mnist_r"
    assert drawn == [
        folder_of_figures / f"mine-seed_0-{name}.png" for name in ("examples", "class_means", "poses")
    ]
    assert all(imread(path).std() > 0.05 for path in drawn)


def test_on_other_data_it_is_measured_as_if_the_data_were_made_by_hand(folder):
    _, model, _ = load_run(folder)
    wide = DistortedDigits(
        load_digits(), lambda images, generator: rotate(images, generator, max_angle=180.0)
    ).test
    found, path = evaluate_run(folder, ["dataset.distort.max_angle=180", "device=cpu"])
    assert found.metrics["test_error"] == pytest.approx(error(model, wide.images, wide.labels))
    assert (
        found.differs == ["dataset.distort.max_angle (90.0 -> 180)"] and found.fingerprint == wide.fingerprint
    )
    assert path == folder / "evaluations" / "step_4,dataset.distort.max_angle=180.json"
    assert json.loads(path.read_text())["differs"] == found.differs
    options = {"scale": (0.75, 1.0), "std": 1.5, "reach": 0.75}
    warped = DistortedDigits(
        load_digits(), lambda images, generator: elastic(images, generator, **options)
    ).test
    found, _ = evaluate_run(folder, ["experiment=mnist_e", "device=cpu"])
    assert found.fingerprint == warped.fingerprint and any("elastic" in one for one in found.differs)
    assert found.metrics["test_error"] == pytest.approx(error(model, warped.images, warped.labels))
    found, path = evaluate_run(folder, ["+dataset.test_seed=1", "trainer.eval_batch_size=7"])
    assert found.fingerprint != wide.fingerprint and path.name == "step_4,dataset.test_seed=1.json"


def test_an_interrupted_run_says_at_which_step_its_weights_are(folder):
    (folder / "result.json").unlink()
    state = checkpoint.load(folder / "last.pt")
    checkpoint.save(folder / "last.pt", state | {"step": 2})
    found, path = evaluate_run(folder)
    assert "the weights of step 2 of 4: the run is not finished" in str(found) and "result" not in str(found)
    assert path.name == "step_2.json"


def test_other_test_images_than_those_of_the_result_are_no_secret(folder):
    content = json.loads((folder / "result.json").read_text()) | {"test_fingerprint": "0" * 64}
    (folder / "result.json").write_text(json.dumps(content))
    assert "of other test images" in str(evaluate_run(folder)[0])
    assert "of other test images" not in str(evaluate_run(folder, ["dataset.distort.max_angle=9"])[0])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.width=8", r"^model\.width=8 is not valid: a test changes the data \(dataset\.KEY=VALUE"),
        ("trainer.iterations=9", "anything else is another run, which python train.py trains"),
        ("seed=1", "is not valid: a test changes the data"),
        ("dataset.val_size=9", "which images were held out, the training has decided"),
        (
            "dataset.distort.angle=9",
            r"have no such key\. Valid: dataset\.distort\.max_angle, .*dataset\.name",
        ),
        ("dataset.distort.max_angle=1,2", "one value of each"),
        (
            "dataset.distort.max_angle=400",
            r"max_angle=400 is not valid: it is a number from 0 to 180",
        ),
        ("dataset=digit", r"^dataset=digit: .*digit"),
        ("experiment=own_images", r"These data need dataset\.distort=VALUE"),
        ("device=gpu", "device=gpu is not valid: choose one of auto, cpu, cuda"),
    ],
)
def test_what_is_no_question_to_a_trained_network_is_refused(folder, word, message):
    with pytest.raises(UserError, match=message):
        evaluate_run(folder, [word])
    assert not (folder / "evaluations").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "experiment=mnist_rts",
            r"trained on images \(1, 28, 28\), and these data have images \(1, 42, 42\)",
        ),
        (
            "experiment=upright",
            "trained on DistortedDigits, and these data are TurnedDigits: a test needs data of",
        ),
        ("experiment=mnist_addition", "these data are AddedDigits"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused(folder, word, message):
    with pytest.raises(UserError, match=message):
        evaluate_run(folder, [word])


def photographs(root: Path, *classes: str) -> Path:
    for value, name in enumerate(classes):
        for part, count in (("train", 3), ("val", 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 40), (40 * value, 30 * i, 90)).save(root / part / name / f"{i}.png")
    return root


def test_own_images_are_tested_on_other_folders_of_the_same_classes(tmp_path):
    first, second, third = (
        photographs(tmp_path / name, *classes)
        for name, classes in (("first", "ab"), ("second", "ab"), ("third", "ac"))
    )
    Image.new("RGB", (50, 40)).save(second / "val" / "a" / "more.png")
    cfg = configuration(
        ["experiment=own_images", f"dataset.root={first}", "dataset.size=32", "model=image_cnn", "trainer=smoke",
         "backbone=mobilenet_v2", "backbone.weights=none", "trainer.iterations=1", "trainer.batch_size=2",
         "trainer.log_every=1", "trainer.checkpoint_every=1", "trainer.val_every=1", "wandb.mode=disabled",
         "figures=false", "device=cpu", f"output_dir={tmp_path}/outputs"]
    )  # fmt: skip
    result = run(cfg)
    folder, where = rundir.run_dir(cfg), f"output_dir={tmp_path}/outputs"
    assert evaluate_run(folder, [where])[0].metrics == result.metrics
    found, _ = evaluate_run(folder, [where, f"dataset.root={second}"])
    assert found.fingerprint not in (result.test_fingerprint, "")
    with pytest.raises(UserError, match="trained on classes a, b, and these data have classes a, c"):
        evaluate_run(folder, [where, f"dataset.root={third}"])
    shutil.rmtree(first)  # the network is there without the images that it was trained on
    again, _ = evaluate_run(folder, [where, f"dataset.root={second}"])
    assert again.metrics == found.metrics


def test_a_received_run_is_tested_without_running_what_is_in_it(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    for part, node in (("task", {}), ("dataset", {}), ("model", {})):
        evil = config | {part: {"_target_": "stn.files.os.mkdir", "path": str(tmp_path / "mark"), **node}}
        (folder / "config.json").write_text(json.dumps(evil))
        with pytest.raises(UserError, match="is not allowed"):
            evaluate_run(folder)
    assert not (tmp_path / "mark").exists()
    assert evaluate.FOLDER not in [path.name for path in folder.iterdir()]
