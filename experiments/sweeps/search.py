"""A search for hyper-parameters: trials proposed by Optuna, each one run of the engine in a process of its own.

What is searched is said in Hydra's own sweep grammar. Trials are judged on held-out training images alone, and a study
is one folder, `<output_dir>/search/<study>`: journal.log (the trials), report.md, search.png.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import CONFIGS, composing
from experiments.engine.files import ROOT
from experiments.engine.identity import decides, differences
from experiments.engine.result import Result
from experiments.engine.run import check
from experiments.sweeps import process
from experiments.sweeps.process import LOG
from stn.seeds import stream_seed

DIRECTIONS = {"error": "minimize", "loss": "minimize", "accuracy": "maximize"}  # by a metric's last word
# A trial with another of these would be measured on other images, or with other luck, or is the same run elsewhere.
NOT_SEARCHED = ("experiment", "dataset", "images", "seed")
SCHEDULES = ("trainer", "schedules")  # of two of them, one step does not compare
STARTUP = 5  # trials that end undisturbed before any is stopped early
DIGITS = 5  # significant ones of a number from an interval; it becomes part of a folder's name

DONE, STOPPED, FAILED, OPEN = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.RUNNING,
)


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration that is searched, and where."""

    key: str
    distribution: BaseDistribution

    def text(self, value: Any) -> str:
        """A proposed value as train.py is told it, within the bounds."""
        space = self.distribution
        if not isinstance(space, FloatDistribution):
            return str(value)
        if space.step is not None:
            return f"{value:.10g}"
        return repr(min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high))

    def __str__(self) -> str:
        space = self.distribution
        if isinstance(space, CategoricalDistribution):
            return " or ".join(map(str, space.choices))
        assert isinstance(space, FloatDistribution | IntDistribution)
        kind = "whole numbers " if isinstance(space, IntDistribution) else ""
        step = f" in steps of {space.step:g}" if space.step not in (None, 1) else ""
        return f"{kind}{space.low:g} to {space.high:g}{step}{', log' if space.log else ''}"


@dataclass(frozen=True)
class Question:
    """What is searched for.   fixed: the overrides of every trial.   folder: the study's."""

    fixed: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    metric: str
    folder: Path
    iterations: int

    @property
    def direction(self) -> str:
        return DIRECTIONS[self.metric.rsplit("_", 1)[-1]]

    @property
    def identity(self) -> dict[str, Any]:
        """What may not differ between two commands that go on with one study."""
        space = {p.key: str(p) for p in self.parameters}
        fixed = sorted(o for o in self.fixed if decides(_key(o)))
        return {"overrides": ", ".join(fixed), "space": space, "metric": self.metric}

    def chosen(self, trial: Trial | FrozenTrial) -> list[str]:
        """The overrides that are this trial's own."""
        return [f"{p.key}={p.text(trial.params[p.key])}" for p in self.parameters]


def parse(overrides: Sequence[str]) -> tuple[list[str], list[Parameter]]:
    """Splits overrides in Hydra's grammar into those of every trial and those that are searched.

    interval(a, b) is any number between (whole ones with the tag `int`), choice(...) and range(...) are the values that
    a sweep would run; tag(log, ...) spreads the trials evenly over the orders of magnitude.
    raises: UserError for what is not in the grammar, or cannot be searched.
    """
    fixed, searched = [], []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(f"{text} cannot be read: {' '.join(str(error).split())}.") from error
        if not override.is_sweep_override():
            fixed.append(text)
            continue
        key = override.key_or_group
        if key.split(".")[0] in NOT_SEARCHED or not decides(key):
            raise UserError(
                f"{key} is not searched: all trials have one seed and are measured on the same held-out images."
            )
        searched.append(Parameter(override.get_key_element(), _distribution(override, text)))
    if not searched:
        raise UserError(
            'There is nothing to search: give a key an interval, a choice or a range, such as "optimizer.lr='
            'tag(log,interval(1e-4,1e-2))" or "model.width=choice(8,16)".'
        )
    return fixed, searched


def _distribution(override: Override, text: str) -> BaseDistribution:
    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    try:
        if isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None:
            if (CONFIGS / override.key_or_group).is_dir():
                raise ValueError("there are only options there: write choice(...)")
            if not sweep.start < sweep.end:
                raise ValueError("the second number is to be the larger one")
            if log and sweep.start <= 0:
                raise ValueError("a logarithmic scale has no 0")
            if "int" in sweep.tags or isinstance(sweep.start, int):
                return IntDistribution(math.ceil(sweep.start), math.floor(sweep.end), log=log)
            return FloatDistribution(sweep.start, sweep.end, log=log)
        values = list(override.sweep_string_iterator())
        if len(values) < 2:
            raise ValueError("that is no choice")
        if isinstance(sweep, RangeSweep):
            if log:
                raise ValueError("a range is not logarithmic: write tag(log,interval(...)) or a choice")
            low, high = sorted((float(values[0]), float(values[-1])))
            step = abs(float(sweep.step))
            if all(isinstance(x, int) for x in (sweep.start, sweep.stop, sweep.step)):
                return IntDistribution(int(low), int(high), step=int(step))
            return FloatDistribution(round(low, 10), round(high, 10), step=step)
        return CategoricalDistribution(list(dict.fromkeys(values)))
    except ValueError as error:
        raise UserError(f"{text} cannot be searched: {error}.") from error


def ask(overrides: Sequence[str], *, study: str, metric: str = "val_error") -> Question:
    """raises: UserError for anything that would make the search fail, or worthless, from the start."""
    if not re.fullmatch(r"[\w.-]*\w", study):
        raise UserError(f"--study {study} is not a name: write letters, digits, -, _ and dots.")
    if not metric.startswith("val_"):
        raise UserError(
            f"--metric {metric} is refused: a search sees held-out training images only, never the test set; "
            "choose val_error, val_accuracy or val_loss."
        )
    if metric.rsplit("_", 1)[-1] not in DIRECTIONS:
        raise UserError(f"--metric {metric} is not known: choose val_error, val_accuracy or val_loss.")
    fixed, parameters = parse(overrides)
    first = [f"{p.key}={_first(p)}" for p in parameters]
    with composing() as make:
        cfg = _compose(make, [*fixed, *first])
    check(cfg)
    if not OmegaConf.select(cfg, "dataset.val_size"):
        raise UserError(
            "Nothing is held out to judge the trials by: give dataset.val_size, such as dataset.val_size=5000 of "
            "MNIST's 60,000 training images; the test set is not for choosing."
        )
    folder = ROOT / cfg.output_dir / "search" / study
    return Question(tuple(fixed), tuple(parameters), metric, folder, cfg.trainer.iterations)


def _first(parameter: Parameter) -> str:
    space = parameter.distribution
    return parameter.text(space.choices[0] if isinstance(space, CategoricalDistribution) else space.low)


def _compose(make: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]) -> DictConfig:
    try:
        return make(overrides)
    except HydraException as error:
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error


def open_study(question: Question, *, pruning: bool) -> optuna.Study:
    """The study in the question's folder, created if there is none. Begun anew where no trial has come to anything.

    raises: UserError where the folder holds a study of something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = question.folder / "journal.log"
    quiet = not pruning or any(p.key.lstrip("+").split(".")[0] in SCHEDULES for p in question.parameters)

    def load() -> optuna.Study:
        return optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction=question.direction,
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner()
            if quiet
            else optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=question.iterations // 2),
        )

    study = load()
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    held = study.user_attrs.get("question")
    other = held is not None and held != question.identity
    if DONE in states or STOPPED in states:
        if other:
            changes = ", ".join(differences(held, question.identity))
            raise UserError(
                f"{question.folder} holds another search; it differs in {changes}. Give another --study, or delete it."
            )
    elif other or (states and OPEN not in states):
        journal.unlink()
        study = load()
    study.set_user_attr("question", question.identity)
    return study


def search(
    question: Question,
    *,
    trials: int,
    jobs: int = 1,
    seed: int = 0,
    pruning: bool = True,
    say: Callable[[str], None] = print,
) -> optuna.Study:
    """Goes on with the question's study until it has that many trials, whatever they came to.

    An interrupted trial goes on first, from its run's checkpoint. What is proposed hangs on the seed, the trial's
    number and the trials before it; with several jobs, on which of them ended first too.
    jobs: trials at a time, the processor's cores divided among them.
    pruning: stop a trial that, past half of its steps, is worse than the median was there; its run can be resumed.
    raises: UserError where the runs measure no such metric, or the study is that of another question.
    """
    folders: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)  # two trials may be one run
    lock, ended = threading.Lock(), threading.Event()
    question.folder.mkdir(parents=True, exist_ok=True)
    with rundir.locked(question.folder), composing() as make:
        study = open_study(question, pruning=pruning)
        space = {p.key: p.distribution for p in question.parameters}
        interrupted = study.get_trials(deepcopy=False, states=(OPEN,))
        say(_count(study, trials))

        def propose() -> Trial | None:
            if interrupted:
                return Trial(study, interrupted.pop(0)._trial_id)
            number = len(study.get_trials(deepcopy=False))
            if number >= trials:
                return None
            study.sampler = optuna.samplers.TPESampler(seed=stream_seed(seed, f"trial {number}") % 2**32)
            return study.ask(space)

        def work() -> None:
            while not ended.is_set():
                with lock:
                    trial = propose()
                    if trial is None:
                        return
                    chosen = question.chosen(trial)
                    overrides = [*question.fixed, *chosen]
                    folder = ROOT / _run_dir(make, overrides)
                    if not any(_key(override) == "figures" for override in overrides):
                        overrides.append("figures=false")
                    trial.set_user_attr("run", str(folder))
                    say(f"trial {trial.number}: {' '.join(chosen)}")
                    mine = folders[folder]

                def enough(trial: Trial = trial, folder: Path = folder) -> bool:
                    with lock:
                        return _hopeless(trial, folder, question)

                with mine:
                    if ended.is_set():
                        return
                    status = process.train(overrides, share=jobs, log=folder / LOG, enough=enough)
                with lock:
                    # 130, or killed by a signal: Ctrl-C, perhaps, which all processes of a terminal hear at once.
                    if status is not None and (status == 130 or status < 0):
                        say(f"trial {trial.number}: interrupted")
                        continue
                    say(f"trial {trial.number}: {_tell(study, trial, status, folder, question)}")

        with ThreadPoolExecutor(jobs) as pool:
            try:
                for worker in [pool.submit(work) for _ in range(jobs)]:
                    worker.result()
            except BaseException:
                ended.set()
                process.stop_all()
                raise
    return study


def _run_dir(make: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]) -> Path:
    return rundir.run_dir(_compose(make, overrides), overrides)


def _hopeless(trial: Trial, folder: Path, question: Question) -> bool:
    """Tells the study what a run has logged on held-out images since; whether the pruner gives the trial up."""
    told = trial.storage.get_trial(trial._trial_id).intermediate_values
    path, key = folder / "metrics.jsonl", question.metric.replace("val_", "val/", 1)
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:  # the last may be half written
        numbers = json.loads(line)
        step = numbers["step"]
        if key in numbers and step > max(told, default=0) and step < question.iterations:
            trial.report(numbers[key], step)
            if trial.should_prune():
                return True
    return False


def _tell(study: optuna.Study, trial: Trial, status: int | None, folder: Path, question: Question) -> str:
    """Writes down how a trial ended. returns: the same in words."""
    if status is None:
        study.tell(trial, state=STOPPED)
        return _ending(study.trials[trial.number])
    if status:
        trial.set_user_attr("reason", rundir.failure(folder) or process.last_line(folder / LOG))
    else:
        metrics = Result.read(folder / "result.json").metrics
        if question.metric not in metrics:
            valid = ", ".join(name for name in metrics if name.startswith("val_")) or "nothing held out"
            raise UserError(f"The runs measure no {question.metric}: --metric is one of {valid}.")
        value = metrics[question.metric]
        if math.isfinite(value):
            study.tell(trial, value)
            return f"{question.metric} {value:.4g}"
        trial.set_user_attr("reason", f"{question.metric} is {value}.")
    study.tell(trial, state=FAILED)
    return _ending(study.trials[trial.number])


def _ending(trial: FrozenTrial) -> str:
    if trial.state == STOPPED:
        return f"stopped at step {trial.last_step}"
    return f"failed: {trial.user_attrs['reason']}" if trial.state == FAILED else "as planned"


def _count(study: optuna.Study, trials: int) -> str:
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    kinds = ((DONE, "finished"), (STOPPED, "stopped early"), (FAILED, "failed"), (OPEN, "interrupted"))
    parts = [f"{states.count(state)} {word}" for state, word in kinds if state in states or state == DONE]
    return f"{max(trials, len(states))} trials: {', '.join(parts)}."


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The trials, best first: those that ended, those that were stopped early, those that failed; a run once."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1

    def order(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None else math.inf
        return [DONE, STOPPED, FAILED, OPEN].index(trial.state), sign * value, trial.number

    once: dict[str, FrozenTrial] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=order):
        once.setdefault(trial.user_attrs.get("run", str(trial.number)), trial)
    return list(once.values())


def report(question: Question, study: optuna.Study) -> str:
    """The trials, what mattered, and the command that trains the winner, as Markdown; also written to report.md."""
    trials = ranked(study)
    keys = [p.key for p in question.parameters]
    lines = [f"| trial | {question.metric} | {' | '.join(keys)} | ended | run |"]
    lines += ["|--:|--:|" + "--:|" * len(keys) + ":--|:--|"]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4g}"
        texts = [p.text(trial.params[p.key]) for p in question.parameters]
        run = trial.user_attrs.get("run", "")
        lines.append(
            f"| {trial.number} | {value} | {' | '.join(texts)} | {_ending(trial)} | {_shown(Path(run))} |"
        )
    complete = study.get_trials(deepcopy=False, states=(DONE,))
    if len(complete) > STARTUP and len(keys) > 1:
        shares = optuna.importance.get_param_importances(study)
        text = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        lines += ["", f"What sets the best trials apart (PED-ANOVA over {len(complete)}): {text}."]
    if complete:
        best = trials[0]
        kept = [o for o in question.fixed if _key(o) != "dataset.val_size"]
        command = shlex.join(["python", "train.py", *kept, *question.chosen(best)])
        lines += [
            "",
            f"Best: trial {best.number}, {question.metric} {best.value:.4g} on held-out training images.",
        ]
        lines += ["Trained on all of them, and tested:", "", f"    {command}"]
    else:
        lines += ["", "No trial has ended: the same command begins anew once their reason is mended."]
    text = "\n".join(lines) + "\n"
    (question.folder / "report.md").write_text(text)
    return text


def picture(question: Question, study: optuna.Study) -> Path | None:
    """search.png: value over trials, and over each parameter. None where nothing has ended.

    Full dots ended, hollow ones were stopped early; the ring is the best. Later trials are darker.
    """
    trials = [t for t in ranked(study) if t.value is not None and t.state in (DONE, STOPPED)]
    if not trials or trials[0].state != DONE:
        return None
    from matplotlib import colormaps  # slow to import
    from matplotlib.figure import Figure

    colours = colormaps["Blues"]
    panels = 1 + len(question.parameters)
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(3.4 * columns, 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for panel, axes in enumerate(grid):
        if panel >= panels:
            axes.set_visible(False)
            continue
        parameter = question.parameters[panel - 1] if panel else None
        for trial in reversed(trials):
            ended = trial.state == DONE
            axes.scatter(
                _place(trial, parameter),
                trial.value,
                s=28,
                facecolors=colours(0.25 + 0.75 * trial.number / len(study.trials)) if ended else "none",
                edgecolors="none" if ended else "0.6",
                zorder=2 if ended else 1,
            )
        best = _place(trials[0], parameter), trials[0].value
        axes.scatter(*best, s=90, facecolors="none", edgecolors="C3", zorder=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(parameter.key if parameter else "trial")
        if panel % columns == 0:
            axes.set_ylabel(question.metric + ("" if question.metric.endswith("loss") else ", %"))
        if parameter is None:
            _best_so_far(axes, study)
        elif isinstance(parameter.distribution, CategoricalDistribution):
            choices = list(map(str, parameter.distribution.choices))
            axes.set_xticks(range(len(choices)), choices)
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif getattr(parameter.distribution, "log", False):
            axes.set_xscale("log")
    path = question.folder / "search.png"
    figure.savefig(path, dpi=130)
    return path


def _place(trial: FrozenTrial, parameter: Parameter | None) -> float:
    """Where a trial stands on the axis of a parameter; without one, of the trials."""
    if parameter is None:
        return trial.number
    value = trial.params[parameter.key]
    space = parameter.distribution
    return space.choices.index(value) if isinstance(space, CategoricalDistribution) else value


def _best_so_far(axes: Any, study: optuna.Study) -> None:
    done = study.get_trials(deepcopy=False, states=(DONE,))
    better = min if study.direction == optuna.study.StudyDirection.MINIMIZE else max
    values: list[float] = []
    for trial in done:
        values.append(better([*values[-1:], float(trial.value or 0.0)]))
    axes.step([t.number for t in done], values, where="post", color="C3", linewidth=1, zorder=0)


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
