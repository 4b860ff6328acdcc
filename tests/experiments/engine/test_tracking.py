"""W&B mirrors result.json, read back with W&B's own reader; and its failure is not ours."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.engine import checkpoint, rundir, tracking
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.run import run
from experiments.engine.task import Classification
from experiments.report import Section
from experiments.sections import SECTIONS

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
WANDB = str(Path(sys.executable).with_name("wandb"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, without an account, and whatever W&B puts there."""
    for name in ("WANDB_API_KEY", "WANDB_DATA_DIR", "WANDB_MODE", "WANDB_SWEEP_ID", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def folders(cfg) -> list[Path]:
    return sorted(Path(cfg.output_dir).glob("wandb/offline-run-*"))


def read_back(folder: Path) -> SimpleNamespace:
    """run: the record of the run.   summary: at the end, flat.   artifacts: name -> record.   steps: of the history."""
    (file,) = folder.glob("run-*.wandb")
    command = [WANDB, "leet", "inspect", "--json", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = SimpleNamespace(summary={}, artifacts={}, steps=[])
    for record in map(json.loads, text.splitlines()):
        content = record.get(record["type"])
        if record["type"] == "run":
            found.run = content
        elif record["type"] == "summary":
            found.summary |= content["update"]
        elif record["type"] == "artifact":
            found.artifacts.setdefault(content["name"], []).append(content)
        elif record["type"] == "history":
            found.steps.append(int(content["step"]["num"]))
    return found


def rows(folder: Path, held: SimpleNamespace, key: str = tracking.AGAINST_PAPER) -> list[dict]:
    table = json.loads((folder / "files" / held.summary[f"{key}.path"]).read_text())
    return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]


def test_an_offline_run_reads_back_as_result_json_says(configure, home, caplog):
    cfg = configure("wandb.mode=offline", "dataset.val_size=40", "trainer.iterations=6", "seed=2")
    with caplog.at_level(logging.INFO):
        result = run(cfg, (), SECTIONS)
    run_dir = rundir.run_dir(cfg)
    (folder,) = folders(cfg)
    held = read_back(folder)

    assert held.run["run_group"] == "mnist_rts/st_cnn-affine-smoke"
    assert held.run["display_name"] == "mnist_rts/st_cnn-affine-smoke/seed_2"
    assert held.run["job_type"] == "smoke"
    tags = {"mnist_rts", "st_cnn", "affine", "smoke", "digits"}
    if result.git_revision:
        tags |= {f"git-{result.git_revision[:7]}"} | ({"dirty"} if result.git_dirty else set())
    assert set(held.run["tags"]) == tags
    assert held.run["config"]["update"]["config_hash"] == result.config_hash

    for key, value in result.metrics.items():
        assert held.summary[key] == pytest.approx(value, rel=1e-9), key
    for key in ("parameters", "test_fingerprint", "config_hash", "iterations", "wall_seconds"):
        assert held.summary[key] == getattr(result, key), key
    assert held.summary["val/error"] == result.metrics["val_error"]  # what a sweep's search looks at
    assert "paper" not in held.summary and "difference" not in held.summary  # digits are not the paper's

    (line,) = rows(folder, held)
    assert line["row"] == "ST-CNN affine" and line["column"] == "RTS" and line["seed"] == 2
    assert line["ours"] == pytest.approx(result.metrics["test_error"])
    assert line["paper"] is None and line["difference"] is None

    (kept,) = held.artifacts["mnist_rts-st_cnn-affine-smoke-seed_2-result"]
    files = {file["path"]: Path(file["local_path"]) for file in kept["manifest"]["contents"]}
    assert set(files) == {"result.json", "config.json", "predictions.pt"}
    assert json.loads(files["result.json"].read_text()) == result.to_dict()
    best, last = held.artifacts["mnist_rts-st_cnn-affine-smoke-seed_2-model"]
    assert "best" in best["aliases"] and "last" in last["aliases"]
    for artifact, name in ((best, "best.pt"), (last, "weights.pt")):
        (file,) = artifact["manifest"]["contents"]
        assert Path(file["local_path"]) == (run_dir / name).resolve()
    weights, whole = checkpoint.load(run_dir / "weights.pt"), checkpoint.load(run_dir / "last.pt")
    assert weights["step"] == 6 and weights.keys() == {"step", "model"}
    assert all(torch.equal(whole["model"][key], value) for key, value in weights["model"].items())

    assert f"wandb sync {folder}" in caplog.text
    assert sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file()) < 200_000
    assert not list(home.rglob("staging/*")), "what `wandb sync` will need lies in the home"


def test_artifacts_can_be_left_out(configure, monkeypatch):
    started = fake_wandb(monkeypatch)
    cfg = configure("wandb.mode=offline", "wandb.artifacts=false")
    run(cfg, (), SECTIONS)
    assert started[0].artifacts == [] and started[0].finished == [0]
    assert not (rundir.run_dir(cfg) / "weights.pt").exists()
    with pytest.raises(UserError, match="it is true or false"):
        run(configure("wandb.artifacts=maybe"))


def test_a_resumed_run_is_the_same_one_and_every_part_of_it_is_synced(configure, monkeypatch, caplog):
    cfg = configure("wandb.mode=offline")
    with monkeypatch.context() as broken:
        broken.setattr(
            Classification, "evaluate", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut"))
        )
        with pytest.raises(RuntimeError, match="power cut"):
            run(cfg, (), SECTIONS)
    time.sleep(1)  # a folder is named by the second
    with caplog.at_level(logging.INFO):
        run(cfg, (), SECTIONS)
    first, second = folders(cfg)
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2] == read_back(second).run["run_id"]
    assert f"wandb sync {first} {second}" in caplog.text
    command = [WANDB, "sync", "--dry-run", str(first), str(second)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Would sync 2 run(s)" in said.stderr + said.stdout


def test_training_goes_on_when_wandb_cannot_start(configure, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no disk, no network, no luck")

    monkeypatch.setattr(tracking.Tracker, "_start", broken)
    with caplog.at_level(logging.WARNING):
        result = run(configure("wandb.mode=offline"))
    assert result.iterations == 4
    assert "training goes on without it" in caplog.text


def test_training_goes_on_without_an_account(configure, caplog):
    with caplog.at_level(logging.WARNING):
        result = run(configure("wandb.mode=online"))
    assert result.iterations == 4
    assert "No API key configured" in caplog.text and "training goes on without it" in caplog.text


def test_training_ends_well_when_the_paper_cannot_be_told_of(configure, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("dataset")

    fake_wandb(monkeypatch)
    monkeypatch.setattr(Section, "against_paper", broken)
    cfg = configure("wandb.mode=offline")
    run(cfg, (), SECTIONS)
    assert (rundir.run_dir(cfg) / "result.json").exists()
    assert "training goes on without it" in caplog.text


def test_it_falls_silent_after_the_first_failure(tmp_path, caplog):
    class Broken:
        calls = 0

        def log(self, *_, **__):
            Broken.calls += 1
            raise OSError("gone")

    tracker = tracking.Tracker(tmp_path, root=tmp_path, mode="disabled", **NOTHING)
    tracker._run = Broken()
    tracker.log(1, {"a": 1.0})
    tracker.log(2, {"a": 1.0})
    tracker.finish()
    assert Broken.calls == 1
    assert caplog.text.count("W&B stopped") == 1


def test_names_and_tags_that_wandb_would_not_take_are_cut(tmp_path, monkeypatch):
    started = fake_wandb(monkeypatch)
    long = "experiment/" + "x" * 160
    tracking.Tracker(
        tmp_path, root=tmp_path, mode="offline",
        **NOTHING | {"group": long, "name": f"{long}/seed_17", "tags": ["t" * 80, "", "twice", "twice"]},
    ).artifact("model", [], metadata={})  # fmt: skip
    settings = started[0].settings
    assert len(settings["group"]) == 128 and len(settings["name"]) == 128
    assert settings["name"].endswith("/seed_17")
    assert settings["tags"] == ["t" * 64, "twice"]
    (artifact,) = started[0].artifacts
    assert len(artifact.name) == 128 and artifact.name.endswith("-model")


def test_under_an_agent_the_run_is_the_agents(configure, monkeypatch):
    started = fake_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    cfg = configure("wandb.mode=offline", "dataset.val_size=40")
    result = run(cfg, (), SECTIONS)
    again = run(cfg, (), SECTIONS)  # stands already, but this agent's run knows nothing of it yet
    assert again == result
    for one in started:
        assert one.settings["mode"] == "online"
        assert one.settings["id"] is None and one.settings["project"] is None
        assert one.summary["test_error"] == result.metrics["test_error"]
        assert [numbers["val/error"] for _, numbers in one.logged if "val/error" in numbers]
        assert one.finished == [0]
    assert len(started) == 2
    assert [step for step, _ in started[0].logged] == [step for step, _ in started[1].logged]
    assert not (rundir.run_dir(cfg) / "wandb_id").exists()


def test_the_best_weights_are_those_of_the_lowest_validation_error(configure):
    cfg = configure("dataset.val_size=60", "trainer.iterations=12", "optimizer.lr=0.05")
    run(cfg, (), SECTIONS)
    folder = rundir.run_dir(cfg)
    errors = {
        line["step"]: line["val/error"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    }
    best = checkpoint.load(folder / "best.pt")
    assert best["val_error"] == min(errors.values())
    assert best["step"] == min(step for step, error in errors.items() if error == best["val_error"])
    assert len(set(errors.values())) > 1 and best["step"] < 12, "this run cannot tell the best from the last"

    (folder / "result.json").unlink()
    checkpoint.save(folder / "best.pt", best | {"step": 99, "val_error": 0.0})  # of a past that a kill undid
    run(cfg, (), SECTIONS)
    held = checkpoint.load(folder / "best.pt")
    assert (held["step"], held["val_error"]) == (best["step"], best["val_error"])


def test_without_held_out_digits_there_is_no_best(configure):
    cfg = configure()
    run(cfg, (), SECTIONS)
    assert not (rundir.run_dir(cfg) / "best.pt").exists()


def test_a_section_that_is_not_there_is_named_before_anything_is_trained(configure):
    with pytest.raises(UserError, match="section=nowhere is not valid: choose one of distorted_mnist, "):
        run(configure("section=nowhere"), (), SECTIONS)


NOTHING = {
    "project": "p", "entity": None, "artifacts": True, "group": "g", "name": "n", "job_type": "j", "tags": [],
    "config": {},
}  # fmt: skip


def fake_wandb(monkeypatch) -> list["FakeRun"]:
    """wandb.init starts one of these instead; returns all that were started."""
    import wandb

    started: list[FakeRun] = []

    def init(**settings):
        started.append(FakeRun(settings))
        return started[-1]

    monkeypatch.setattr(wandb, "init", init)
    return started


class FakeRun:
    def __init__(self, settings):
        self.settings, self.logged, self.summary = settings, [], {}
        self.artifacts, self.finished = [], []

    def log(self, numbers, step=None):
        self.logged.append((step, numbers))

    def log_artifact(self, artifact, aliases=None):
        self.artifacts.append(artifact)

    def finish(self, exit_code):
        self.finished.append(exit_code)


def test_every_experiment_names_its_section():
    configs = Path(__file__).parents[3] / "configs" / "experiment"
    needed = {"colocalisation": ["dataset.digit=0", "images=t"], "own_images": ["dataset.root=."]}
    for path in sorted(configs.glob("*.yaml")):
        section = SECTIONS[configuration([f"experiment={path.stem}", *needed.get(path.stem, [])]).section]
        assert bool(section.tables) == (path.stem != "own_images"), path.stem
