"""Trials on the embedded digits: what runs, what is kept, what the table shows."""

import json
import shutil

import pytest

from experiments.analysis import trials
from experiments.analysis.trial_tables import TABLES, Trial, Trials
from experiments.engine.configuration import composing, configuration
from experiments.engine.identity import stored

TINY = (
    "experiment=mnist_r model=st_cnn transform=affine dataset=digits trainer=smoke model.width=4 "
    "trainer.iterations=4 trainer.batch_size=8 trainer.log_every=2"
)


@pytest.fixture
def table(tmp_path, monkeypatch) -> str:
    rows = (Trial("plain", TINY), Trial("averaged", f"{TINY} +trainer.average=0.5"))
    monkeypatch.setattr(trials, "FOLDER", tmp_path)
    monkeypatch.setattr(trials, "HELD_OUT", 20)
    monkeypatch.setattr(trials, "DRAWS", 2)
    monkeypatch.setattr(trials, "FRESH", 500)
    monkeypatch.setitem(trials.TABLES, "tiny", Trials("Tiny", "Two trials.", rows))
    return "tiny"


def test_a_trial_is_judged_on_held_out_digits_and_its_numbers_are_kept(table, monkeypatch):
    from stn.datasets.distorted import DistortedDigits

    monkeypatch.setattr(DistortedDigits, "test", property(lambda self: pytest.fail("the test set was read")))
    plain, averaged = TABLES[table].trials
    result = trials.run(table, plain, 1)
    assert trials.stored(table, plain, 1) == json.loads(json.dumps(result))
    assert (result["seed"], result["iterations"], result["images"]) == (1, 4, 2 * 20)
    assert [step for step, _ in result["curve"]][-1] == 4
    assert result["off_diagonal"] >= 0 and result["cpu_seconds"] >= 0
    assert "averaged_error" not in result
    assert 0 <= trials.run(table, averaged, 0)["averaged_error"] <= 100


def test_the_same_configuration_and_seed_give_the_same_numbers(table):
    first, second = (trials.measure(TINY.split(), 3) for _ in range(2))
    for changing in ("cpu_seconds",):
        first.pop(changing), second.pop(changing)
    assert first == second


def test_numbers_of_another_configuration_are_not_taken(table):
    plain, _ = TABLES[table].trials
    trials.run(table, plain, 0)
    assert trials.stored(table, plain, 0) and trials.stored(table, plain, 1) is None
    assert trials.stored(table, Trial("plain", f"{TINY} trainer.batch_size=4"), 0) is None


def test_a_name_that_no_trial_has_is_refused(script):
    status, _, error = script("trials.py", "readings", "--render", "--only", "P: nothing")
    assert status == 2 and error.startswith("--only P: nothing matches no trial of readings: they are ")


def test_the_table_has_means_spreads_and_configurations(table):
    plain, _ = TABLES[table].trials
    path = trials.path_of(table, plain, 0)
    path.parent.mkdir(parents=True)
    for seed, error in enumerate((1.0, 2.0)):
        numbers = {"error": error, "fresh_error": 0.5, "off_diagonal": None, "cpu_seconds": 90.0}
        held = [f"seed={seed}", f"dataset.val_size={trials.HELD_OUT}"]
        config = stored(configuration([*TINY.split(), *held]))
        about = {"seed": seed, "config": config, "iterations": 4000, "machine": "cpu: a machine, 1 thread"}
        trials.path_of(table, plain, seed).write_text(json.dumps(numbers | about))
    text = trials.render(table).read_text()
    assert "| plain | 4,000 | 2 | 1.50 ± 0.71 |  | 0.50 ± 0.00 |  | 1.5 |" in text
    assert f"`{TINY}`" in text and "a machine" in text and "+trainer.average" not in text


@pytest.mark.parametrize("name", [name for name in TABLES if name != "tiny"])
def test_every_trial_is_a_configuration_and_has_a_name_of_its_own(name):
    names = [trial.name for trial in TABLES[name].trials]
    assert len(set(names)) == len(names)
    with composing() as make:
        for trial in TABLES[name].trials[:: max(len(names) // 12, 1)]:
            make(trial.overrides.split())


def test_the_published_tables_are_those_of_the_published_trials(monkeypatch, tmp_path):
    published = trials.FOLDER
    for name in ("readings", "recipes"):
        shutil.copytree(published / name, tmp_path / name)
        monkeypatch.setattr(trials, "FOLDER", tmp_path)
        assert trials.render(name).read_text() == (published / f"{name}.md").read_text(), name
        shown = (published / f"{name}.md").read_text()
        assert all(path.stem.rsplit("_seed_", 1)[0] in shown for path in (published / name).glob("*.json"))
