"""Runs on a folder of one's own: what they say and leave, which networks fit, and when two are the same run."""

import csv
import logging
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image

from experiments.analysis.predict import predict_files
from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.identity import identity
from experiments.engine.run import assemble, check, load_run, run
from experiments.sections import SECTIONS

TINY = (
    "experiment=own_images", "model=cnn", "dataset.size=24", "device=cpu", "threads=1", "model.width=2",
    "trainer.iterations=4", "trainer.batch_size=4", "trainer.log_every=2", "trainer.checkpoint_every=2",
    "trainer.val_every=2", "wandb.mode=disabled",
)  # fmt: skip


def fill(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        pixels = generator.integers(0, 255, (30, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine/train, mine/val and mine/test, each with ants and bees; the working directory is above."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for seed, name in enumerate(("ant", "bee")):
            fill(tmp_path / "mine" / part / name, count, seed)
    return tmp_path / "mine"


def configured(*overrides, root="mine", figures="false"):
    words = [*TINY, f"dataset.root={root}", f"figures={figures}", *overrides]
    return configuration(words), words


def test_a_run_says_what_it_trains_on_and_leaves_what_became_of_each_class(mine, caplog):
    (mine / "train" / "bee" / "film.gif").touch()
    caplog.set_level(logging.INFO)
    cfg, words = configured("dataset.channels=1", figures="batch")
    result = run(cfg, words, SECTIONS)
    folder = rundir.run_dir(cfg, words)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "mine: 2 classes, ant 4 + 2 + 3, bee 4 + 2 + 3; 8 images to train on, 4 to validate on (val/), 6 to test on "
        "(test/); left out: 1 .gif."
    )
    assert said[1] == f"figure: {folder / 'batch.png'}" and said[2].startswith("own_images cnn, ")
    pictures = {path.stem: imread(path) for path in folder.glob("*.png")}
    assert set(pictures) == {"batch", "crops", "curves", "confusion"}
    assert all(picture[..., :3].std() > 0.05 for picture in pictures.values())
    assert {"val_error", "test_error"} <= set(result.metrics) and (folder / "best.pt").exists()
    assert result.config["dataset"]["content"]["classes"] == ["ant", "bee"]

    names = ["ant", "bee"]
    predicted = [names[i] for i in torch.load(folder / "predictions.pt", weights_only=True).tolist()]
    files = [f"test/{name}/{i}.png" for name in names for i in range(3)]
    with open(folder / "predictions.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "class", "predicted"],
            *([name, name.split("/")[1], guess] for name, guess in zip(files, predicted, strict=True)),
        ]
    predict_files(folder, [mine / "test"], mine.parent / "out", {})
    with open(mine.parent / "out" / "predictions.csv", newline="") as file:
        assert [
            line["class"] for line in csv.DictReader(file)
        ] == predicted  # the network alone, without the data set
    with open(folder / "confusion.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["class", "images", "accuracy", "ant", "bee"]
    for name, line, guesses in zip(names, lines[1:], (predicted[:3], predicted[3:]), strict=True):
        right = 100 * guesses.count(name) / 3
        assert line[:2] == [name, "3"] and float(line[2]) == pytest.approx(right, abs=0.01)
        assert line[3:] == [str(guesses.count(other)) for other in names]
    assert result.metrics["test_error"] == pytest.approx(
        100 - sum(float(line[2]) for line in lines[1:]) / 2, abs=0.01
    )


def test_other_images_under_the_same_path_are_another_run_finished_or_not(mine):
    cfg, words = configured()
    run(cfg, words)
    folder = rundir.run_dir(cfg, words)
    fill(mine / "train" / "cat", 3)
    for left in ("result.json", "last.pt"):
        cfg, words = configured()
        with pytest.raises(
            UserError,
            match=r"differs in dataset\.content\.classes \(\['ant', 'bee'\] -> \['ant', 'bee', 'cat'\]\)",
        ):
            run(cfg, words)
        assert (folder / left).exists()
        (folder / "result.json").unlink(missing_ok=True)
    shutil.rmtree(mine / "train" / "cat")
    Image.new("RGB", (30, 36)).save(mine / "train" / "ant" / "0.png")
    with pytest.raises(UserError, match=r"another configuration; it differs in dataset\.content\.sha256 \("):
        run(*configured())
    with pytest.raises(UserError, match="other images than those of the run"):
        load_run(folder)


def test_the_same_images_under_another_path_are_the_same_run(mine, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    result = run(*configured())
    shutil.copytree(mine, tmp_path / "elsewhere" / "mine")
    for root in (f"{mine}", "./mine/", "elsewhere/../mine", "elsewhere/mine"):
        caplog.clear()
        assert run(*configured(root=root)) == result
        assert "is finished already" in caplog.text


def test_images_that_were_mended_start_anew_what_had_not_begun(mine, tmp_path):
    (mine / "train" / "ant" / "0.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"1 images cannot be used: .*ant/0\.png \(cannot be decoded\)\. Mend"
        ):
            run(*configured())
    fill(mine / "train" / "ant", 1)
    assert run(*configured()).iterations == 4


@pytest.mark.parametrize(
    ("root", "message"),
    [("nowhere", "nowhere cannot be read"), ("mine/train/ant", "holds 4 files and no folders")],
)
def test_a_folder_that_is_refused_is_refused_in_its_own_words(mine, root, message):
    cfg, _ = configured(root=root)
    with pytest.raises(UserError, match=message):
        check(cfg)  # as sweeps do, before they start anything


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", ["cnn", "st_cnn", "st_fcn"])
def test_the_papers_networks_fit_images_of_any_channels(mine, model, channels):
    cfg, _ = configured(f"model={model}", f"dataset.channels={channels}", "dataset.size=40", "transform=tps")
    data, network = assemble(cfg, torch.device("cpu"))
    images, _ = data.train_stream(4).next_batch()
    logits, aux = network(images)
    assert images.shape == (4, channels, 40, 40) and logits.shape == (4, 2)
    assert ("theta" in aux) == model.startswith("st_")


def test_a_pretrained_backbone_is_fine_tuned_and_a_small_network_is_not(mine):
    def made(*words):
        found = identity(configuration(["experiment=own_images", "dataset.root=mine", *words]))
        return found["trainer"]["iterations"], found["optimizer"]["lr"], found["optimizer"]["localisation_lr"]

    assert made() == made("model=image_cnn") == (500, 0.0005, 0.1)
    assert made("model=st_cnn") == made("model=cnn") == (2000, 0.003, 1.0)
    assert made("model=st_cnn", "schedules.fast.iterations=7")[0] == 7
    for experiment, dropout in (("own_images", 0.5), ("cub_cnn_224", 0.7)):
        for model in ("image_cnn", "image_st_cnn"):
            words = [f"experiment={experiment}", f"model={model}", "++dataset.root=mine"]
            assert configuration(words).model.dropout == dropout
