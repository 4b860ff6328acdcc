"""The search: its grammar against Hydra's, what it refuses, and studies that are stopped, continued and reported."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.sweeps import process
from tests.experiments.sweeps.conftest import result_of

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from experiments.sweeps.search import define_study, search  # noqa: E402
from experiments.sweeps.search_report import draw, ranked, write_report  # noqa: E402
from experiments.sweeps.space import Parameter, parse_space  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
BASE = (
    "experiment=mnist_r", "model=fcn", "dataset=digits", "dataset.val_size=60", "trainer=smoke", "device=cpu",
    "threads=1", "model.width=4", "trainer.iterations=8", "trainer.batch_size=8", "trainer.log_every=2",
    "trainer.checkpoint_every=2", "trainer.val_every=2", "wandb.mode=disabled",
)  # fmt: skip
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


@pytest.fixture
def define(tmp_path):
    def make(*searched, metric="val_error"):
        return define_study([*BASE, f"output_dir={tmp_path}", *(searched or (LR,))], name="s", metric=metric)

    return make


@pytest.fixture
def trainings(monkeypatch):
    """Stands in for train.py: gives `answer(lr)` for the error; a status, or an exception, in its place is the end."""

    class Trainings(list):
        def answer(self, lr):
            return 100 * lr

    made = Trainings()

    def train(overrides, *, log, enough, **_):
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
        replace(result_of(cfg), metrics=metrics).write(folder / "result.json")
        return 0

    monkeypatch.setattr(process, "train", train)
    return made


def go(study, trials, **options):
    said = []
    return search(study, trials=trials, report=said.append, **options), said


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
    fixed, (parameter,) = parse_space(["b=1", text])
    assert fixed.words == ["b=1"] and parameter.key == "a" and parameter.distribution == expected
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
        parse_space(texts)
    assert "\n" not in str(error.value)


def test_never_on_the_test_set(define, tmp_path):
    with pytest.raises(UserError, match="never the test set"):
        define(metric="test_error")
    with pytest.raises(UserError, match=r"give dataset\.val_size"):
        define(LR, "dataset.val_size=0")
    for part in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "mine" / part / name).mkdir(parents=True)
            (tmp_path / "mine" / part / name / "1.png").touch()
    define(
        "experiment=own_images",
        "dataset=own_images",
        f"dataset.root={tmp_path}/mine",
        "dataset.val_size=0",
        LR,
    )
    with pytest.raises(UserError, match="choose val_error or val_loss"):
        define(metric="val_accuracy")
    with pytest.raises(UserError, match="is not a name"):
        define_study([*BASE, LR], name="../s")


def test_a_study_goes_on_where_it_ended(define, trainings, tmp_path):
    study, said = go(define(), 3)
    assert len(trainings) == 3 and said[0] == "3 trials: 0 finished."
    first = list(trainings)
    go(define(), 3)
    assert trainings == first  # nothing twice
    study, said = go(define(), 5)
    assert len(set(trainings)) == 5 and said[0] == "5 trials: 3 finished."
    best = min(float(text.split("=")[1]) for text in trainings)
    assert study.best_value == pytest.approx(100 * best)
    in_one_go, _ = go(define_study([*BASE, f"output_dir={tmp_path}/other", LR], name="s"), 5)
    assert [t.params for t in in_one_go.trials] == [t.params for t in study.trials]
    text = write_report(define(), study)
    command = text.splitlines()[-1]
    assert f"python train.py {' '.join(BASE[:3])} trainer=smoke" in command and "val_size" not in command
    assert f"optimizer.lr={best!r}" in command and "test_error" not in text
    assert [path.name for path in draw(define(), study)] == ["history.png", "slice.png"]
    assert all(path.stat().st_size > 5000 for path in draw(define(), study))


def test_a_failure_is_written_down_and_the_rest_goes_on(define, trainings):
    trainings.answer = lambda lr: "The loss is nan: lower the learning rate." if lr > 0.002 else 1.0
    study, said = go(define(), 6)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert 0 < len(failed) < 6 and len(trainings) == 6
    assert f"trial {failed[0].number}: failed: The loss is nan: lower the learning rate." in said
    assert ranked(study)[-1].state == TrialState.FAIL
    assert "failed: The loss is nan" in write_report(define(), study)


def test_where_nothing_came_of_it_it_begins_anew(define, trainings):
    trainings.answer = lambda lr: "The MNIST files are not there."
    study, _ = go(define(), 2)
    assert "No trial has ended" in write_report(define(), study) and draw(define(), study) == []
    trainings.answer = lambda lr: 1.0
    study, said = go(define(), 2)
    assert said[0] == "2 trials: 0 finished." and trainings[:2] == trainings[2:]
    with pytest.raises(
        UserError, match=r"space\.optimizer\.lr \(0\.0001 to 0\.1, log -> 0\.0001 to 0\.01, log\)"
    ):
        go(define("optimizer.lr=tag(log,interval(1e-4,1e-2))"), 2)


@pytest.mark.parametrize("end", [130, -9, KeyboardInterrupt()])
def test_an_interrupted_trial_is_the_first_to_go_on(define, trainings, monkeypatch, end):
    stopped = []
    monkeypatch.setattr(process, "stop_all", lambda: stopped.append(1))
    trainings.answer = lambda lr: 1.0 if len(trainings) < 2 else end
    if isinstance(end, BaseException):
        with pytest.raises(KeyboardInterrupt):
            go(define(), 2)
        assert stopped
    else:
        go(define(), 2)
    trainings.answer = lambda lr: 1.0
    study, said = go(define(), 3)
    assert said[0] == "3 trials: 1 finished, 1 interrupted."
    assert trainings[2] == trainings[1] and len(trainings) == 4
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


def test_what_is_worse_than_the_median_is_stopped_past_the_middle(define, trainings):
    trainings.answer = lambda lr: 10.0 if len(trainings) <= 5 else 50.0
    study, said = go(define(), 7)
    assert [t.state for t in study.trials][5:] == [TrialState.PRUNED] * 2
    assert "trial 5: stopped at step 4" in said
    assert ranked(study)[0].value == 10.0
    trainings.answer = lambda lr: 50.0
    study, _ = go(define(), 8, pruning=False)
    assert study.trials[7].state == TrialState.COMPLETE


def test_a_task_without_the_metric(define, trainings):
    with pytest.raises(UserError, match="measures no val_loss"):
        go(define(metric="val_loss"), 1)


def test_a_run_proposed_twice_is_listed_once(define, trainings):
    asked = define("model.width=choice(2,4)")
    study, _ = go(asked, 5)
    assert len(study.trials) == 5 and len(ranked(study)) == 2


def test_the_engines_own_runs(monkeypatch, tmp_path):
    def train(overrides, **_):
        run(configuration(overrides), overrides)
        return 0

    monkeypatch.setattr(process, "train", train)
    searched = [*BASE, f"output_dir={tmp_path}", LR, "transform=choice(affine,attention)", "model=st_fcn"]
    asked = define_study(searched, name="a")
    study, _ = go(asked, 1)
    (best,) = ranked(study)
    result = Result.read(Path(best.user_attrs["run"]) / "result.json")
    assert best.value == result.metrics["val_error"]
    assert repr(result.config["optimizer"]["lr"]) == asked.parameters[0].text(best.params["optimizer.lr"])
    assert result.transform == best.params["transform"]


def test_the_script_refuses_in_one_sentence():
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *BASE, LR, "--study", "s"]
    done = subprocess.run([*command, "--metric", "test_error"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "never the test set" in done.stderr
