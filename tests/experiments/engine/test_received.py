"""Somebody else's run folder runs no code, chooses no place to write to, reads no environment; ours tells no secret."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.analysis import significance
from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError, with_arguments
from experiments.engine.configuration import configuration
from experiments.engine.result import Result
from experiments.engine.run import check, load_run, run
from experiments.report import details
from experiments.sections import SECTIONS
from stn.datasets import mnist
from stn.models import backbones
from tests.experiments.conftest import TINY

ROOT = Path(__file__).resolve().parents[3]
KEY, TOKEN = "planted" * 5 + "01234", "hf_planted_token"  # W&B takes a key of 40 characters


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> Path:
    """A run folder as it is sent around."""
    cfg = configuration([*TINY, f"output_dir={tmp_path_factory.mktemp('sent')}"])
    run(cfg)
    return rundir.run_dir(cfg)


@pytest.fixture
def folder(sent, tmp_path, monkeypatch) -> Path:
    """A copy, to be changed; the working directory is the test's."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sent, tmp_path / "received"))


def change(folder: Path, **dataset) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dataset"] |= dataset
    path.write_text(json.dumps(config))


def evil_pt(at: Path, mark: Path) -> str:
    torch.save({"model": Touch(mark)}, at / "evil.pt")
    return str(at / "evil.pt")


def evil_npy(at: Path, mark: Path) -> str:
    np.save(at / "evil.npy", np.array([Touch(mark)], dtype=object), allow_pickle=True)
    return str(at / "evil.npy")


def mkdir(mark: Path) -> dict:
    return {"_target_": "stn.files.os.mkdir", "path": str(mark)}


# what stands in the configuration -> (folder, mark) -> the keys of its data set that are changed
ATTACKS = {
    "a pickle": lambda at, mark: {
        "digits": {
            "_target_": "experiments.engine.checkpoint.torch.load", "f": evil_pt(at, mark), "weights_only": False,
        }
    },
    "a pickled array": lambda at, mark: {
        "digits": {"_target_": "stn.datasets.mnist.np.load", "file": evil_npy(at, mark), "allow_pickle": True}
    },
    "a module's module": lambda at, mark: {"digits": mkdir(mark)},
    "a copy": lambda at, mark: {
        "digits": {
            "_target_": "stn.datasets.bird_archives.shutil.copy", "src": str(at / "last.pt"), "dst": str(mark),
        }
    },
    "a method": lambda at, mark: {
        "digits": {"_target_": "stn.files.Path.touch", "_args_": [{
            "_target_": "stn.files.Path", "_args_": [str(mark)]}]}
    },
    "our own writer": lambda at, mark: {
        "digits": {"_target_": "experiments.engine.files.write_json", "path": {
            "_target_": "stn.files.Path", "_args_": [str(mark)]}, "content": {}}
    },
    "our own public writer": lambda at, mark: {
        "digits": {"_target_": "stn.datasets.toy_birds.toy_birds", "into": {
            "_target_": "stn.files.Path", "_args_": [str(mark)]}}
    },
    "in lists of lists": lambda at, mark: {"expected": {"deep": [[{"x": mkdir(mark)}]]}},
    "in an allowed target": lambda at, mark: {
        "digits": {"_target_": "stn.datasets.digits.load_digits", "x": mkdir(mark)}
    },
    "as a positional argument": lambda at, mark: {
        "digits": {"_target_": "stn.datasets.digits.load_digits", "_args_": [mkdir(mark)]}
    },
    "called later": lambda at, mark: {
        "distort": {"_target_": "stn.datasets.mnist.np.save", "_partial_": True, "_args_": [str(mark)]}
    },
    "not recursive": lambda at, mark: {"digits": {**mkdir(mark), "_recursive_": False, "_convert_": "object"}},
    "under an older name": lambda at, mark: {
        "digits": {"_target_": "experiments.birds.Path.mkdir", "_args_": [{
            "_target_": "experiments.birds.Path", "_args_": [str(mark)]}]}
    },
    "made by an interpolation": lambda at, mark: {
        "digits": "\\${oc.create:{_target_:stn.files.os.mkdir,path:'" + str(mark) + "'}}"
    },
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_received_configuration_runs(folder, tmp_path, attack):
    mark = tmp_path / "mark"
    change(folder, **ATTACKS[attack](folder, mark))
    with pytest.raises(UserError, match="is not allowed"):
        load_run(folder)
    assert not mark.exists() and not list(tmp_path.glob("mark*"))


@pytest.mark.parametrize("attack", ["a copy", "made by an interpolation"])
def test_nor_in_a_received_result(sent, tmp_path, attack):
    mark, content = tmp_path / "mark", json.loads((sent / "result.json").read_text())
    changed = ATTACKS[attack](sent, mark)
    if isinstance(changed["digits"], str):  # what is not in a file of Hydra's is resolved once
        changed["digits"] = changed["digits"].lstrip("\\")
    content["config"]["dataset"] |= changed
    with pytest.raises(UserError, match="is not allowed"):
        significance.truth(Result.from_dict(content), {})
    assert not mark.exists()


def test_a_received_configuration_does_not_read_the_environment(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    change(folder, val_size="${oc.env:HF_TOKEN}")
    with pytest.raises(UserError, match="is not allowed") as refused:
        load_run(folder)
    assert TOKEN not in str(refused.value)


def test_a_received_configuration_chooses_no_folder_to_write_to(folder, tmp_path):
    victim = tmp_path / "victim"
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40)).save(tmp_path / "images" / name / f"{i}.png")
    config = {
        "_target_": "stn.datasets.folder.OwnImages", "root": str(tmp_path / "images"), "size": 32,
        "cache_dir": str(victim),
    }  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": config}))
    with pytest.raises(UserError):  # these weights are not of a network on photographs
        load_run(folder)
    assert not victim.exists() and list((tmp_path / "outputs" / "cache").iterdir())
    for name in (f"../../{victim.name}", str(victim), "..", ""):
        birds = {"_target_": "stn.datasets.birds.Birds", "folder": name, "size": 32}
        path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": birds}))
        with pytest.raises(UserError, match="it is a plain name"):
            load_run(folder)
    assert not victim.exists()


def test_a_received_configuration_downloads_nothing(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "_download", lambda where: asked.append(where))
    monkeypatch.setattr(backbones, "_download", lambda arch: asked.append(arch))
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path / "data"))
    change(folder, digits={"_target_": "stn.datasets.mnist.load_mnist", "data_dir": str(tmp_path / "victim")})
    with pytest.raises(FileNotFoundError, match="downloading was not asked for") as missing:
        load_run(folder)
    assert asked == [] and "victim" not in str(missing.value)
    with pytest.raises(FileNotFoundError):
        load_run(folder, {"download": True})
    assert asked == [tmp_path / "data"]
    backbone = {"_target_": "stn.models.backbones.Backbone", "arch": "resnet18", "weights": "default"}
    assert with_arguments(backbone, {})["download"] is False
    backbones.Backbone("resnet18", weights="default", download=False)
    assert asked == [tmp_path / "data"]


def pickles(at: Path, mark: Path) -> dict[str, Path]:
    torch.save({"model": Touch(mark)}, at / "zip.pt")
    torch.save(torch.nn.Linear(1, 1), at / "module.pt")
    (at / "plain.pt").write_bytes(pickle.dumps({"model": Touch(mark)}, protocol=2))
    (at / "garbage.pt").write_bytes(b"nothing of use")
    (at / "half.pt").write_bytes((at / "zip.pt").read_bytes()[:100])
    return {path.stem: path for path in at.glob("*.pt")}


def tells(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).replace("weights_only=True", "")


@pytest.mark.parametrize("kind", ["zip", "module", "plain", "garbage", "half"])
def test_a_pickle_is_refused_without_the_way_around(folder, tmp_path, kind):
    (tmp_path / "pickles").mkdir()
    mark, path = tmp_path / "mark", pickles(tmp_path / "pickles", tmp_path / "mark")[kind]
    for name in ("last.pt", "predictions.pt"):
        shutil.copy(path, folder / name)
    for read, kinds in (
        (lambda: load_run(folder), UserError),
        (lambda: checkpoint.load(path), UserError),
        (lambda: details.predictions(folder / "result.json"), UserError),
        (lambda: backbones.Backbone("resnet18", weights=path), ValueError),
    ):
        with pytest.raises(kinds, match="cannot be read") as refused:
            read()
        said = tells(refused.value)
        assert "weights_only" not in said and "safe_globals" not in said
        if kind in ("zip", "plain"):
            assert f"it would call {os.mkdir.__module__}.mkdir" in said
    assert not mark.exists()


def test_a_pickled_array_among_published_predictions_is_refused(tmp_path):
    mark, published = tmp_path / "mark", tmp_path / "runs" / "mnist_r" / "cnn.json"
    path = details.details_path(published)
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        np.savez(file, predictions=np.array([Touch(mark)], dtype=object))
    with pytest.raises(UserError, match="cannot be read") as refused:
        details.predictions(published)
    assert "allow_pickle" not in tells(refused.value) and not mark.exists()


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """Secrets in the environment and in the git remote of the working directory."""
    for name in ("WANDB_DATA_DIR", "WANDB_MODE", "WANDB_SWEEP_ID", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WANDB_API_KEY": KEY, "HF_TOKEN": TOKEN, "MY_SETTING": "planted_setting"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    remote = ["git", "-C", str(work), "remote", "add", "origin", "https://planted_user@host/x.git"]
    subprocess.run(remote, check=True)
    monkeypatch.chdir(work)
    return tmp_path


def leaks(*folders: Path) -> list[str]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if b"planted" in path.read_bytes()]


def test_no_file_of_a_run_holds_a_secret_of_the_environment(planted):
    """In a process of its own: W&B reads the environment once, and keeps it for the tests after this one."""
    command = [
        sys.executable, str(ROOT / "train.py"), *TINY, "wandb.mode=offline", "data_dir=/planted_argument",
        f"output_dir={planted}/outputs",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    written = {path.name for path in (planted / "outputs").rglob("*")}
    assert {"result.json", "config.json", "debug.log"} <= written
    assert any(name.endswith(".wandb") for name in written)
    assert leaks(planted / "outputs", planted / "home") == []


@pytest.mark.parametrize(
    ("overrides", "key", "variable"),
    [
        (["+note=${oc.env:HF_TOKEN}"], "note", "HF_TOKEN"),
        (["+note=before_${oc.env:HF_TOKEN}"], "note", "HF_TOKEN"),
        (["+note=[${oc.env:HF_TOKEN}]"], "note", "HF_TOKEN"),
        (["+note=${oc.env:MY_SETTING}"], "note", "MY_SETTING"),
        (["+note=${wandb.entity}", "wandb.entity=${oc.env:MY_SETTING}"], "note", "MY_SETTING"),
        (["wandb.project=${oc.env:WANDB_API_KEY}"], "wandb.project", "WANDB_API_KEY"),
        ([f"wandb.entity={TOKEN}"], "wandb.entity", "HF_TOKEN"),
        (["device=${oc.env:HF_TOKEN}"], "device", "HF_TOKEN"),
    ],
)
def test_a_configuration_with_a_secret_is_refused_before_anything_is_written(
    configure, planted, overrides, key, variable
):
    with pytest.raises(UserError, match=rf"^{key} holds .* environment variable {variable}") as refused:
        run(configure(*overrides), overrides, SECTIONS)
    assert "planted" not in str(refused.value)
    assert leaks(planted / "outputs") == [] and not list(planted.rglob("config.json"))


def test_folders_may_come_from_the_environment(configure, planted, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(planted / "outputs"))
    monkeypatch.setenv("STN_DATA_DIR", str(planted / "data"))
    check(configure("output_dir=${oc.env:SCRATCH}/mine", "+note=${data_dir}/weights"))
