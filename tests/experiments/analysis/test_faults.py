"""What a run survives: one trial of each kind, and what the trials are there to see is seen."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from experiments.analysis import fault_trials
from experiments.analysis.fault_kinds import KINDS
from experiments.analysis.fault_starts import Ended
from experiments.analysis.fault_trials import Lab, planned, write_page
from experiments.analysis.faults import Fault, Reference, Trial, differences, standing
from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError
from experiments.engine.run import run

# One of each cause; scripts/faults.py makes more, of every kind.
SOME = ("kill", "full_disk", "damaged", "two", "data", "wandb_dies")


def test_some_trials_end_as_if_undisturbed(tmp_path):
    assert set(SOME) < set(KINDS)
    lab = Lab(tmp_path / "lab")
    trials = [lab.trial(f"{kind}-0") for kind in SOME]
    assert {one["name"]: one["fault"] for one in trials if one["fault"]} == {}
    came = [start["came"] for one in trials for start in one["starts"] if start.get("by")]
    assert sum(came) >= 3  # most disturbances came during the run
    assert sorted(path.name for path in lab.folder.iterdir()) == [
        "configs", "undisturbed-digits", "undisturbed-digits-wandb.mode=offline", "undisturbed-images",
    ]  # fmt: skip


def weight(folder: Path) -> None:
    state = checkpoint.load(folder / "last.pt")
    value = next(iter(state["model"].values())).view(-1)
    value[0] = torch.nextafter(value[0], torch.tensor(9.0))
    checkpoint.save(folder / "last.pt", state)


def generator(folder: Path) -> None:
    state = checkpoint.load(folder / "last.pt")
    state["random"]["python"][1][0] ^= 1
    checkpoint.save(folder / "last.pt", state)


def prediction(folder: Path) -> None:
    predictions = torch.load(folder / "predictions.pt", weights_only=True)
    predictions[0] ^= 1
    checkpoint.save(folder / "predictions.pt", predictions)


def metric(folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    content["metrics"]["test_loss"] += 1e-12
    (folder / "result.json").write_text(json.dumps(content))


def line(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))


def half_file(folder: Path) -> None:
    (folder / ".last.pt.tmp").write_text("")


def test_what_differs_is_found(configure, tmp_path):
    cfg = configure("model=cnn")
    run(cfg)
    whole, other = rundir.run_dir(cfg), tmp_path / "other"
    first = next(iter(checkpoint.load(whole / "last.pt")["model"]))
    for change, found in (
        (None, []),
        (weight, [f"last.pt.model.{first}"]),
        (generator, ["last.pt.random.python.1.0"]),
        (prediction, ["predictions.pt"]),
        (metric, ["metrics of result.json"]),
        (line, ["metrics.jsonl"]),
        (half_file, [".last.pt.tmp"]),
    ):
        shutil.copytree(whole, other)
        if change:
            change(other)
        assert differences(whole, other) == found
        assert differences(whole, other, history=False) == [one for one in found if one != "metrics.jsonl"]
        assert standing(other) == float("inf")
        shutil.rmtree(other)


TOLD = "It is full. The same command again goes on."


@pytest.mark.parametrize(
    ("ended", "stood", "fault"),
    [
        (Ended(0, "", False), -1, None),
        (Ended(2, TOLD, False), -1, None),
        (Ended(-signal.SIGKILL, "", True), -1, None),
        (Ended(-signal.SIGKILL, "", False), -1, "exit status -9"),  # and nobody has killed it
        (Ended(-signal.SIGSEGV, "", True), -1, "exit status -11"),
        (Ended(1, TOLD, True), -1, "exit status 1"),
        (Ended(2, "", True), -1, "exit status 2"),
        (Ended(0, "Traceback (most recent call last):", False), -1, "Traceback"),
        (Ended(None, "", True), -1, "does not end"),
        (Ended(0, "", False), 4, "stood at step 4 before a start, and at nothing after it"),
    ],
)
def test_an_end_that_is_neither_good_nor_one_sentence_is_a_fault(tmp_path, ended, stood, fault):
    trial = Trial("kill-0", tmp_path, Reference(tmp_path, Path("run"), 10), [])
    if fault is None:
        assert trial.judge(ended, stood, None) == ended
    else:
        with pytest.raises(Fault, match=fault):
            trial.judge(ended, stood, None)
    (record,) = trial.starts
    assert record["status"] == ended.status and record["stands"] == "nothing"


@pytest.mark.parametrize("how", ["flip", "blank", "cut", "empty", "remove"])
def test_a_spoilt_file_is_another_and_the_same_for_the_same_name(tmp_path, how):
    made = []
    for name in ("damaged-0", "damaged-0", "damaged-1"):
        path = tmp_path / "file"
        path.write_bytes(bytes(range(1, 256)) * 3)
        Trial(name, tmp_path, Reference(tmp_path, Path("run"), 10), []).spoil(path, how)
        made.append(path.read_bytes() if path.exists() else None)
    assert made[0] == made[1] != bytes(range(1, 256)) * 3
    assert (made[0] == made[2]) == (how in ("empty", "remove"))


def test_names_of_trials_and_the_page(tmp_path, monkeypatch, script):
    assert len(planned(200)) == 200 == len(set(planned(200)))
    assert planned(25)[-1] == "kill-2" and planned(25, "term-*") == ["term-0", "term-1"]
    with pytest.raises(
        UserError, match="--only nothing matches none of 25 trials: their kinds are kill, term"
    ):
        planned(25, "nothing")

    said = "outputs/a/seed_0/last.pt cannot be written: No space left on device."
    starts = [{"by": "no_room 3", "came": False, "status": 2, "stands": "step 4", "said": said}]
    monkeypatch.setattr(
        Lab, "trial", lambda _, name: {"name": name, "starts": starts, "fault": "lost" if name == "term-0" else None}
    )  # fmt: skip
    folders = iter([tmp_path / "kept", tmp_path / "removed"])
    monkeypatch.setattr(fault_trials, "mkdtemp", lambda **_: str(next(folders)))
    status, _, _ = script("faults.py", "--trials", "3", "--json", str(tmp_path / "faults.json"))
    page = (tmp_path / "faults.md").read_text()
    assert status == 1 and (tmp_path / "kept" / "lab").exists()
    assert "| kill | SIGKILL, up to three times | 1 | 1 | 1 | 1 |" in page
    assert "| term | SIGTERM, up to three times | 1 | 1 | 1 | 0 |" in page and "- **term-0**: lost" in page
    assert page.count("| last.pt cannot be written: No space left on device. |") == 3
    assert script("faults.py", "--trials", "1")[0] == 0 and not (tmp_path / "removed").exists()
    assert script("faults.py", "--only", "nothing")[0] == 2
    assert write_page(tmp_path / "faults.json").read_text() == page


def test_what_is_said_is_recorded_without_the_temporary_folder(tmp_path):
    trial = Trial("kill-0", tmp_path / "lab", Reference(tmp_path, Path("run"), 10), [])
    trial.judge(
        Ended(2, f"{tmp_path / 'lab' / 'images'} is empty, not {tmp_path / 'other'}.", False), -1, None
    )
    assert trial.starts[0]["said"] == "images is empty, not other."
