"""A search for hyper-parameters: trials proposed by Optuna, each one run of the engine in a process of its own.

Trials are judged on held-out training images alone, and a study is one folder, `<output_dir>/search/<study>`:
journal.log (the trials), report.md, history.png, slice.png.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.errors import HydraException
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import composing
from experiments.engine.files import ROOT
from experiments.engine.identity import decides, differences
from experiments.engine.overrides import Overrides
from experiments.engine.required import Compose
from experiments.engine.result import Result
from experiments.engine.run import check
from experiments.sweeps.job import INTERRUPTED, LOG, Job, last_line
from experiments.sweeps.pool import run_pool
from experiments.sweeps.progress import Progress
from experiments.sweeps.space import Parameter, parse_space
from stn.seeds import stream_seed

METRICS = ("val_error", "val_loss")  # of held-out images; the lower, the better
SCHEDULES = ("trainer", "schedules")  # of two of them, one step does not compare
STARTUP = 5  # trials that end undisturbed before any is stopped early

DONE, STOPPED, FAILED, OPEN = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.RUNNING,
)


@dataclass(frozen=True)
class Study:
    """What is searched for.

    Attributes:
        fixed: the overrides of every trial.
        parameters: the space.
        metric: of held-out training images: `val_error` or `val_loss`.
        folder: where the study is kept.
        iterations: of a trial's training.
    """

    fixed: Overrides
    parameters: tuple[Parameter, ...]
    metric: str
    folder: Path
    iterations: int

    @property
    def identity(self) -> dict[str, Any]:
        """What may not differ between two commands that go on with one study."""
        space = {p.key: str(p) for p in self.parameters}
        return {
            "overrides": ", ".join(sorted(self.fixed.only(decides).words)),
            "space": space,
            "metric": self.metric,
        }

    def overrides_of(self, trial: Trial | FrozenTrial) -> list[str]:
        """The overrides that are this trial's own."""
        return [f"{p.key}={p.text(trial.params[p.key])}" for p in self.parameters]


def define_study(overrides: Sequence[str], *, name: str, metric: str = "val_error") -> Study:
    """A study from a command line.

    Args:
        overrides: as of train.py, one at least an interval, choice or range.
        name: of the study's folder.
        metric: by which trials are judged.

    Raises:
        UserError: for anything that would make the search fail, or worthless, from the start.
    """
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise UserError(f"--study {name} is not a name: write letters, digits, -, _ and dots.")
    if metric not in METRICS:
        raise UserError(
            f"--metric {metric} is refused: a search sees held-out training images only, never the test set; "
            f"choose {' or '.join(METRICS)}."
        )
    fixed, parameters = parse_space(overrides)
    with composing() as make:
        cfg = _compose(make, [*fixed.words, *(f"{p.key}={p.first}" for p in parameters)])
    check(cfg)
    validation = (cfg.dataset.get("content") or {}).get("validation")  # images in a folder of their own
    if not (cfg.dataset.get("val_size") or validation):
        raise UserError(
            "Nothing is held out to judge the trials by: give dataset.val_size, such as dataset.val_size=5000 of "
            "MNIST's 60,000 training images; the test set is not for choosing."
        )
    folder = ROOT / cfg.output_dir / "search" / name
    return Study(fixed, tuple(parameters), metric, folder, cfg.trainer.iterations)


def _compose(make: Compose, overrides: Sequence[str]) -> DictConfig:
    try:
        return make(overrides)
    except HydraException as error:
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error


def open_trials(study: Study, *, pruning: bool) -> optuna.Study:
    """The trials in the study's folder, created if there are none. Begun anew where none has come to anything.

    Args:
        study: whose trials.
        pruning: whether trials worse than the median are stopped.

    Raises:
        UserError: where the folder holds a study of something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = study.folder / "journal.log"
    never = not pruning or any(p.key.lstrip("+").split(".")[0] in SCHEDULES for p in study.parameters)

    def load() -> optuna.Study:
        return optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner()
            if never
            else optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=study.iterations // 2),
        )

    trials = load()
    states = [trial.state for trial in trials.get_trials(deepcopy=False)]
    held = trials.user_attrs.get("question")
    other = held is not None and held != study.identity
    if DONE in states or STOPPED in states:
        if other:
            changes = ", ".join(differences(held, study.identity))
            raise UserError(
                f"{study.folder} holds another search; it differs in {changes}. Give another --study, or delete it."
            )
    elif other or (states and OPEN not in states):
        journal.unlink()
        trials = load()
    trials.set_user_attr("question", study.identity)
    return trials


def search(
    study: Study,
    *,
    trials: int,
    at_once: int = 1,
    seed: int = 0,
    pruning: bool = True,
    report: Callable[[str], object] = print,
) -> optuna.Study:
    """Goes on with a study until it has that many trials, whatever they came to.

    An interrupted trial goes on first, from its run's checkpoint. What is proposed depends on the seed, the trial's
    number and the trials before it; with several at once, on which of them ended first too.

    Args:
        study: what is searched for.
        trials: in all, those of earlier calls too.
        at_once: trials at a time, the processor's cores divided among them.
        seed: of what is proposed.
        pruning: stop a trial that, past half of its steps, is worse than the median was there; its run can be resumed.
        report: is given the lines for the terminal.

    Raises:
        UserError: where the runs measure no such metric, or the folder is that of another study.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    with rundir.locked(study.folder), composing() as make:
        found = open_trials(study, pruning=pruning)
        space = {p.key: p.distribution for p in study.parameters}
        proposed: list[Trial] = [
            Trial(found, trial._trial_id) for trial in found.get_trials(deepcopy=False, states=(OPEN,))
        ]
        running: dict[Job, Trial] = {}
        report(_count(found, trials))
        held = len(found.get_trials(deepcopy=False)) - len(proposed)
        progress = Progress(
            (),
            at_once=at_once,
            report=report,
            total=max(trials - held, len(proposed)),
            name=lambda job: f"trial {running[job].number}",
        )

        def next_job(left: float) -> Job | None:
            count = len(found.get_trials(deepcopy=False))
            if not proposed and count < trials:
                found.sampler = optuna.samplers.TPESampler(seed=stream_seed(seed, f"trial {count}") % 2**32)
                proposed.append(found.ask(space))
            taken = {job.folder for job in running}
            for trial in proposed:
                job = _job(study, trial, make)
                if job.folder in taken:  # two trials may be one run: the second waits for the first
                    continue
                proposed.remove(trial)
                running[job] = trial
                trial.set_user_attr("run", str(job.folder))
                progress.report(f"trial {trial.number}: {' '.join(study.overrides_of(trial))}")
                return job
            return None

        def ended(job: Job, status: int | None) -> None:
            trial = running[job]
            # Interrupted, or killed by a signal: by Ctrl-C, perhaps, which all processes of a terminal get at once.
            if status is not None and (status == INTERRUPTED or status < 0):
                kind, became = "open", "interrupted"
            else:
                became = _enter(found, trial, status, job, study)
                kind = {DONE: "done", STOPPED: "stopped"}.get(found.trials[trial.number].state, "failed")
            progress.end(job, kind)
            del running[job]
            progress.report(f"trial {trial.number}: {became}")

        with progress:
            run_pool(
                next_job,
                ended,
                at_once=at_once,
                enough=lambda job: _hopeless(running[job], job, study),
                progress=progress,
            )
    return found


def _job(study: Study, trial: Trial, make: Compose) -> Job:
    """The run of a trial. It draws no pictures unless it is told to."""
    words = [*study.fixed.words, *study.overrides_of(trial)]
    if "figures" not in study.fixed:
        words.append("figures=false")
    return Job.of(_compose(make, words), words, root=ROOT, make=make)


def _hopeless(trial: Trial, job: Job, study: Study) -> bool:
    """Enters what a run has logged on held-out images since the last call; whether the pruner gives the trial up."""
    entered = trial.storage.get_trial(trial._trial_id).intermediate_values
    path, key = job.folder / "metrics.jsonl", study.metric.replace("val_", "val/", 1)
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:  # the last may be half written
        logged = json.loads(line)
        step = logged["step"]
        if key in logged and step > max(entered, default=0) and step < study.iterations:
            trial.report(logged[key], step)
            if trial.should_prune():
                return True
    return False


def _enter(found: optuna.Study, trial: Trial, status: int | None, job: Job, study: Study) -> str:
    """Enters how a trial ended into the study. Returns the same in words."""
    if status is None:
        found.tell(trial, state=STOPPED)
        return ending(found.trials[trial.number])
    if status:
        reason = rundir.failure(job.folder) or last_line(job.folder / LOG) or f"exit status {status}"
        trial.set_user_attr("reason", reason)
    else:
        metrics = Result.read(job.folder / "result.json").metrics
        if study.metric not in metrics:
            raise UserError(
                f"The task of these runs measures no {study.metric}, so a search cannot judge them."
            )
        value = metrics[study.metric]
        if math.isfinite(value):
            found.tell(trial, value)
            return f"{study.metric} {value:.4g}"
        trial.set_user_attr("reason", f"{study.metric} is {value}.")
    found.tell(trial, state=FAILED)
    return ending(found.trials[trial.number])


def ending(trial: FrozenTrial) -> str:
    """How a trial ended, in words."""
    if trial.state == STOPPED:
        return f"stopped at step {trial.last_step}"
    if trial.state == OPEN:
        return "interrupted"
    return f"failed: {trial.user_attrs['reason']}" if trial.state == FAILED else "as planned"


def _count(found: optuna.Study, trials: int) -> str:
    states = [trial.state for trial in found.get_trials(deepcopy=False)]
    kinds = ((DONE, "finished"), (STOPPED, "stopped early"), (FAILED, "failed"), (OPEN, "interrupted"))
    parts = [f"{states.count(state)} {word}" for state, word in kinds if state in states or state == DONE]
    return f"{max(trials, len(states))} trials: {', '.join(parts)}."
