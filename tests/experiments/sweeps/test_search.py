"""The search: its grammar against Hydra's, what it refuses, and studies that are stopped, continued and reported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.run import run
from experiments.sweeps import process

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from experiments.sweeps.search import Parameter, ask, parse, picture, ranked, report, search  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
BASE = (
    "experiment=mnist_r", "model=fcn", "dataset=digits", "dataset.val_size=60", "trainer=smoke", "device=cpu",
    "threads=1", "model.width=4", "trainer.iterations=8", "trainer.batch_size=8", "trainer.log_every=2",
    "trainer.checkpoint_every=2", "trainer.val_every=2", "wandb.mode=disabled",
)  # fmt: skip
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


@pytest.fixture
def question(tmp_path):
    def make(*searched, metric="val_error"):
        return ask([*BASE, f"output_dir={tmp_path}", *(searched or (LR,))], study="s", metric=metric)

    return make


@pytest.fixture
def trainings(monkeypatch):
    """Stands in for train.py: gives `answer(lr)` for the error; a status, or an exception, in its place is the end."""

    class Trainings(list):
        def answer(self, lr):
            return 100 * lr

    made = Trainings()

    def train(overrides, *, share, log, enough):
        made.append([o for o in overrides if o.startswith(("optimizer", "model.width="))][-1])
        cfg = configuration(overrides)
        folder = rundir.run_dir(cfg, overrides)
        assert log == folder / "train.log" and "figures=false" in overrides
        answer = made.answer(cfg.optimizer.lr)
        if isinstance(answer, BaseException):
            raise answer
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(answer, str):
            log.write_text(f"step 1\n{answer}\n")
            return 2
        if isinstance(answer, int):
            return answer
        with open(folder / "metrics.jsonl", "w") as file:
            for step in (2, 4, 6, 8):
                file.write(json.dumps({"step": step, "val/error": answer + 8 - step}) + "\n")
                file.flush()
                if enough():
                    return None
        metrics = {"test_error": 0.0, "val_error": answer}
        (folder / "result.json").write_text(json.dumps({"metrics": metrics}))
        return 0

    monkeypatch.setattr(process, "train", train)
    return made


def go(question, trials, **options):
    said = []
    return search(question, trials=trials, say=said.append, **options), said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(1,10)", FloatDistribution(1.0, 10.0)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,10))", IntDistribution(1, 10)),
        ("a=tag(int,log,interval(1,10))", IntDistribution(1, 10, log=True)),
        ("a=choice(8,16)", CategoricalDistribution(["8", "16"])),
        ("a=8,16", CategoricalDistribution(["8", "16"])),
        ("a=choice([1,2],'x y')", CategoricalDistribution(["[1,2]", "x\\ y"])),
        ("a=range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("a=range(5,0,-2)", IntDistribution(1, 5, step=2)),
        ("a=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
    ],
)
def test_the_grammar_is_hydras(text, expected):
    fixed, (parameter,) = parse(["b=1", text])
    assert fixed == ["b=1"] and parameter.key == "a" and parameter.distribution == expected
    override = OverridesParser.create().parse_override(text)
    if override.is_discrete_sweep():  # what a sweep would run is what is searched
        space = parameter.distribution
        if isinstance(space, CategoricalDistribution):
            values = list(space.choices)
        else:
            values = [
                space.low + i * space.step for i in range(round((space.high - space.low) / space.step) + 1)
            ]
        texts = [parameter.text(value) for value in values]
        swept = list(override.sweep_string_iterator())
        assert sorted(texts) == sorted(swept if "[" in text else [f"{float(v):.10g}" for v in swept])


def test_numbers_are_short_and_within_their_bounds():
    parameter = Parameter("a", FloatDistribution(0.0123454, 3.0))
    assert parameter.text(0.0316227766) == "0.031623" and parameter.text(0.0123454) == "0.0123454"
    assert float(Parameter("a", FloatDistribution(1e-9, 1e-7)).text(1.23456789e-8)) == 1.2346e-8


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["b=1"], "There is nothing to search"),
        (["a=interval(2,1)"], "larger one"),
        (["a=tag(log,interval(0,1))"], "has no 0"),
        (["a=choice(1)"], "is no choice"),
        (["a=tag(log,range(1,9))"], "not logarithmic"),
        (["transform=interval(0,1)"], "write choice"),
        (["a=interval(1"], "cannot be read"),
        (["seed=choice(0,1)"], "all trials have one seed"),
        (["dataset.val_size=choice(10,20)"], "the same held-out images"),
    ],
)
def test_what_is_not_searched(texts, message):
    with pytest.raises(UserError, match=message) as error:
        parse(texts)
    assert "\n" not in str(error.value)


def test_never_on_the_test_set(question, tmp_path):
    with pytest.raises(UserError, match="never the test set"):
        question(metric="test_error")
    with pytest.raises(UserError, match=r"give dataset\.val_size"):
        question(LR, "dataset.val_size=0")
    with pytest.raises(UserError, match="choose val_error"):
        question(metric="val_beauty")
    with pytest.raises(UserError, match="is not a name"):
        ask([*BASE, LR], study="../s")


def test_a_study_goes_on_where_it_ended(question, trainings, tmp_path):
    study, said = go(question(), 3)
    assert len(trainings) == 3 and said[0] == "3 trials: 0 finished."
    first = list(trainings)
    go(question(), 3)
    assert trainings == first  # nothing twice
    study, said = go(question(), 5)
    assert len(set(trainings)) == 5 and said[0] == "5 trials: 3 finished."
    best = min(float(text.split("=")[1]) for text in trainings)
    assert study.best_value == pytest.approx(100 * best)
    in_one_go, _ = go(ask([*BASE, f"output_dir={tmp_path}/other", LR], study="s"), 5)
    assert [t.params for t in in_one_go.trials] == [t.params for t in study.trials]
    text = report(question(), study)
    command = text.splitlines()[-1]
    assert f"python train.py {' '.join(BASE[:3])} trainer=smoke" in command and "val_size" not in command
    assert f"optimizer.lr={best!r}" in command and "test_error" not in text
    assert picture(question(), study).stat().st_size > 5000


def test_a_failure_is_written_down_and_the_rest_goes_on(question, trainings):
    trainings.answer = lambda lr: "The loss is nan: lower the learning rate." if lr > 0.002 else 1.0
    study, said = go(question(), 6)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert 0 < len(failed) < 6 and len(trainings) == 6
    assert f"trial {failed[0].number}: failed: The loss is nan: lower the learning rate." in said
    assert ranked(study)[-1].state == TrialState.FAIL
    assert "failed: The loss is nan" in report(question(), study)


def test_where_nothing_came_of_it_it_begins_anew(question, trainings):
    trainings.answer = lambda lr: "The MNIST files are not there."
    study, _ = go(question(), 2)
    assert "No trial has ended" in report(question(), study) and picture(question(), study) is None
    trainings.answer = lambda lr: 1.0
    study, said = go(question(), 2)
    assert said[0] == "2 trials: 0 finished." and trainings[:2] == trainings[2:]
    with pytest.raises(
        UserError, match=r"space\.optimizer\.lr \(0\.0001 to 0\.1, log -> 0\.0001 to 0\.01, log\)"
    ):
        go(question("optimizer.lr=tag(log,interval(1e-4,1e-2))"), 2)


@pytest.mark.parametrize("end", [130, -9, KeyboardInterrupt()])
def test_an_interrupted_trial_is_the_first_to_go_on(question, trainings, monkeypatch, end):
    stopped = []
    monkeypatch.setattr(process, "stop_all", lambda: stopped.append(1))
    trainings.answer = lambda lr: 1.0 if len(trainings) < 2 else end
    if isinstance(end, BaseException):
        with pytest.raises(KeyboardInterrupt):
            go(question(), 2)
        assert stopped
    else:
        go(question(), 2)
    trainings.answer = lambda lr: 1.0
    study, said = go(question(), 3)
    assert said[0] == "3 trials: 1 finished, 1 interrupted."
    assert trainings[2] == trainings[1] and len(trainings) == 4
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


def test_what_is_worse_than_the_median_is_stopped_past_the_middle(question, trainings):
    trainings.answer = lambda lr: 10.0 if len(trainings) <= 5 else 50.0
    study, said = go(question(), 7)
    assert [t.state for t in study.trials][5:] == [TrialState.PRUNED] * 2
    assert "trial 5: stopped at step 4" in said
    assert ranked(study)[0].value == 10.0
    trainings.answer = lambda lr: 50.0
    study, _ = go(question(), 8, pruning=False)
    assert study.trials[7].state == TrialState.COMPLETE


def test_a_run_proposed_twice_is_listed_once(question, trainings):
    asked = question("model.width=choice(2,4)")
    study, _ = go(asked, 5)
    assert len(study.trials) == 5 and len(ranked(study)) == 2


def test_the_engines_own_runs(monkeypatch, tmp_path):
    def train(overrides, **_):
        run(configuration(overrides), overrides)
        return 0

    monkeypatch.setattr(process, "train", train)
    searched = [*BASE, f"output_dir={tmp_path}", LR, "transform=choice(affine,attention)", "model=st_fcn"]
    asked = ask(searched, study="a")
    study, _ = go(asked, 1)
    (best,) = ranked(study)
    result = json.loads((Path(best.user_attrs["run"]) / "result.json").read_text())
    assert best.value == result.metrics["val_error"]
    assert repr(result.config["optimizer"]["lr"]) == asked.parameters[0].text(best.params["optimizer.lr"])
    assert result.transform == best.params["transform"]
    with pytest.raises(UserError, match="measure no val_accuracy: --metric is one of val_error, val_loss"):
        go(ask(searched, study="b", metric="val_accuracy"), 1)


def test_the_script_refuses_in_one_sentence():
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *BASE, LR, "--study", "s"]
    done = subprocess.run([*command, "--metric", "test_error"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "never the test set" in done.stderr
