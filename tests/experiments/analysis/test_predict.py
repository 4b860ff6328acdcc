"""Image files classified by a trained network: as the run itself classifies the same images, and what is refused."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.analysis.predict import image_files, predict_files, prepare_digit
from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.run import load_run, run
from tests.experiments.conftest import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Run directories, four steps each; the drawn birds one."""
    out = f"output_dir={tmp_path_factory.mktemp('trained')}"
    birds = (
        "dataset=toy_birds", "dataset.size=32", "model.crop=32", "model.seen=32", "backbone=mobilenet_v2",
        "backbone.weights=none", "trainer=smoke", "trainer.iterations=1", "trainer.batch_size=4", "trainer.log_every=1",
        "trainer.checkpoint_every=1", "trainer.val_every=1", "device=cpu", "threads=1", "wandb.mode=disabled",
        "figures=false",
    )  # fmt: skip
    found = {}
    for name, words in (
        ("digits", (*TINY, "experiment=mnist_rts", "model=2st_fcn")),
        ("plain", (*TINY, "experiment=mnist_r", "model=cnn")),
        ("sums", (*TINY, "experiment=mnist_addition", "model=fcn")),
        ("birds", ("experiment=cub_2st_448", *birds)),
    ):
        cfg = configuration([*words, out])
        run(cfg)
        found[name] = rundir.run_dir(cfg)
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_test_digits_as_files_are_classified_as_the_run_classified_them(trained, script, tmp_path):
    data, model, _ = load_run(trained["digits"])
    (tmp_path / "digits").mkdir()
    for i, image in enumerate(data.test.images[:60]):
        Image.fromarray(image[0].numpy()).save(tmp_path / "digits" / f"{i:02d}.png")
    out = tmp_path / "out"
    code, said, _ = script("predict.py", str(trained["digits"]), str(tmp_path / "digits"), "--out", str(out))
    assert code == 0 and said.startswith("60 images, the weights of step 4, the last: ")
    found, expected = rows(out), torch.load(trained["digits"] / "predictions.pt", weights_only=True)[:60]
    assert [int(row["class"]) for row in found] == expected.tolist()
    assert [row["file"] for row in found] == [str(tmp_path / "digits" / f"{i:02d}.png") for i in range(60)]
    with torch.no_grad():
        logits, aux = model(data.test.images[:60].float() / 255)
    odds = [float(row["probability"]) for row in found]
    assert len(set(odds)) > 50
    np.testing.assert_allclose(odds, logits.softmax(1).amax(1), rtol=1e-4)
    names = [f"st{k}_theta_{p}" for k in range(2) for p in range(6)]
    assert list(found[0]) == ["file", "class", "probability", *names]
    theta = [[float(row[name]) for name in names] for row in found]
    np.testing.assert_allclose(theta, aux["theta"].flatten(1), rtol=1e-4, atol=1e-5)
    with Image.open(out / "predictions.png") as picture:
        assert min(picture.size) > 200


def test_test_photographs_as_files_get_the_classes_by_name_and_need_no_data(trained, tmp_path):
    cache = trained["birds"].parents[2] / "cache"
    data, _, _ = load_run(trained["birds"], {"cache_dir": str(cache)})
    root = next((cache / "toy_birds").rglob("images.txt")).parent
    images = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    tests = [
        line.split()[0]
        for line in (root / "train_test_split.txt").read_text().splitlines()
        if line[-1] == "0"
    ]
    files = [root / "images" / images[number] for number in tests]
    nowhere = {"data_dir": str(tmp_path / "no"), "cache_dir": str(tmp_path / "no")}
    said, left_out = predict_files(trained["birds"], files, tmp_path / "out", nowhere, shown=3)
    assert said[0].startswith(f"{len(files)} images") and left_out == [] and not (tmp_path / "no").exists()
    predicted = torch.load(trained["birds"] / "predictions.pt", weights_only=True)
    assert [row["class"] for row in rows(tmp_path / "out")] == [data.classes[i] for i in predicted.tolist()]
    assert "st1_theta_1" in rows(tmp_path / "out")[0]


def test_a_digit_of_any_size_is_placed_where_mnist_has_it():
    ink = Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28) | 1)
    assert prepare_digit(ink, 28) is ink
    placed = np.asarray(prepare_digit(ink, 42))
    np.testing.assert_array_equal(placed[7:35, 7:35], np.asarray(ink))
    assert placed.sum() == np.asarray(ink).sum()  # all else is black
    wide = np.asarray(prepare_digit(Image.new("L", (112, 56), 200), 42))
    assert wide.shape == (42, 42) and (wide[14:28, 7:35] == 200).all() and wide.sum() == 200 * 14 * 28
    assert prepare_digit(Image.new("L", (1, 300), 9), 28).size == (28, 28)


def test_dark_ink_on_white_is_said_and_turned(trained, tmp_path):
    data, _, _ = load_run(trained["plain"])
    for i, image in enumerate(data.test.images[:8]):
        folder = tmp_path / "white"
        folder.mkdir(exist_ok=True)
        Image.fromarray(255 - image[0].numpy()).convert("RGB").save(folder / f"{i}.png")
    said, _ = predict_files(trained["plain"], [tmp_path / "white"], tmp_path / "out", {})
    assert "8 images have a bright edge" in said[1] and "give --invert" in said[1]
    said, _ = predict_files(trained["plain"], [tmp_path / "white"], tmp_path / "out", {}, invert=True)
    expected = torch.load(trained["plain"] / "predictions.pt", weights_only=True)[:8]
    assert [int(row["class"]) for row in rows(tmp_path / "out")] == expected.tolist() and len(said) == 1


def test_a_bad_image_is_named_and_the_others_go_on(trained, script, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("in a folder, no image either")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    code, _, said = script("predict.py", str(trained["plain"]), str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 1 and said == f"1 images cannot be read: {tmp_path / 'bad.png'}: they are left out.\n"
    assert [row["file"] for row in rows(tmp_path / "out")] == [str(tmp_path / "good.png")]
    with pytest.raises(UserError, match=r"cannot be read: .*bad\.png: nothing is written"):
        predict_files(trained["plain"], [tmp_path / "bad.png"], tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_predicted_is_refused_in_one_sentence(trained, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for run_dir, paths, options, message in (
        (trained["plain"], [tmp_path / "b.png"], {}, r"b\.png holds no images"),
        (trained["plain"], [tmp_path / "empty"], {}, "empty holds no images: give image files"),
        (trained["plain"], [tmp_path / "a.png"], {"shown": 0}, "--shown 0 is not valid"),
        (trained["birds"], [tmp_path / "a.png"], {"invert": True}, "--invert is of digits"),
        (
            trained["sums"],
            [tmp_path / "a.png"],
            {},
            r"trained on AddedDigits, images of shape \(2, 42, 42\): predict",
        ),
        (tmp_path, [tmp_path / "a.png"], {}, "has no config.json"),
    ):
        with pytest.raises(UserError, match=message):
            predict_files(run_dir, paths, tmp_path / "out", {}, **options)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_does_not_say_what_its_network_was_made_for_needs_the_data(trained, tmp_path):
    folder = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    state = checkpoint.load(folder / "last.pt")
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    for known in ({"in_shape": "wide"}, {"in_shape": [1, 28, 28], "num_classes": "ten", "classes": []}, 7):
        checkpoint.save(folder / "last.pt", state | {"made_for": known})
        with pytest.raises(UserError, match="does not say what its network was made for"):
            predict_files(folder, [tmp_path / "a.png"], tmp_path / "out", {})
    checkpoint.save(folder / "last.pt", {key: value for key, value in state.items() if key != "made_for"})
    said, _ = predict_files(folder, [tmp_path / "a.png"], tmp_path / "out", {})
    assert said[0].startswith("1 images")


def test_images_of_a_folder_come_by_name_from_all_its_folders(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.jpeg", ".hidden.png", "c.txt", ".cache/d.png", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / "c.txt", tmp_path]
    assert [path.relative_to(tmp_path).as_posix() for path in image_files(given)] == [
        "c.txt", "a.png", "b/1.jpeg", "b/2.JPG",
    ]  # fmt: skip
