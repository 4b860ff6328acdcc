"""What a search has found: report.md and two pictures in the study's folder."""

import math
import shlex
import warnings
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from experiments.engine.files import ROOT
from experiments.report.grid import markdown_table
from experiments.sweeps.search import DONE, FAILED, OPEN, STARTUP, STOPPED, Study, ending


def ranked(trials: optuna.Study) -> list[FrozenTrial]:
    """The trials, best first: those that ended, those that were stopped early, those that failed; a run once."""

    def order(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None else math.inf
        return [DONE, STOPPED, FAILED, OPEN].index(trial.state), value, trial.number

    once: dict[str, FrozenTrial] = {}
    for trial in sorted(trials.get_trials(deepcopy=False), key=order):
        once.setdefault(trial.user_attrs.get("run", str(trial.number)), trial)
    return list(once.values())


def write_report(study: Study, trials: optuna.Study) -> str:
    """The trials, what mattered, and the command that trains the winner, as Markdown; also written to report.md."""
    ordered = ranked(trials)
    keys = [p.key for p in study.parameters]
    rows = [
        [
            str(trial.number),
            "" if trial.value is None else f"{trial.value:.4g}",
            *(p.text(trial.params[p.key]) for p in study.parameters),
            ending(trial),
            _shown(Path(trial.user_attrs.get("run", ""))),
        ]
        for trial in ordered
    ]
    heads = ["trial", study.metric, *keys, "ended", "run"]
    lines = [markdown_table(heads, rows, "r" * (2 + len(keys)) + "ll").rstrip()]
    complete = trials.get_trials(deepcopy=False, states=(DONE,))
    if len(complete) > STARTUP and len(keys) > 1:
        shares = optuna.importance.get_param_importances(trials)
        text = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        lines += ["", f"What sets the best trials apart (PED-ANOVA over {len(complete)}): {text}."]
    if complete:
        best = ordered[0]
        kept = study.fixed.without("dataset.val_size").words
        command = shlex.join(["python", "train.py", *kept, *study.overrides_of(best)])
        lines += [
            "",
            f"Best: trial {best.number}, {study.metric} {best.value:.4g} on held-out training images.",
            "Trained on all of them, and tested:",
            "",
            f"    {command}",
        ]
    else:
        lines += ["", "No trial has ended: the same command begins anew once their reason is mended."]
    text = "\n".join(lines) + "\n"
    (study.folder / "report.md").write_text(text)
    return text


def draw(study: Study, trials: optuna.Study) -> list[Path]:
    """history.png, the metric over the trials, and slice.png, the metric over each parameter.

    Both are Optuna's own plots, of the trials that ended. Without one, nothing is drawn.

    Returns:
        The pictures' paths.
    """
    if not trials.get_trials(deepcopy=False, states=(DONE,)):
        return []
    import matplotlib  # slow to import
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    unit = "" if study.metric.endswith("loss") else ", %"
    drawn = []
    with (
        matplotlib.rc_context(),
        warnings.catch_warnings(),
    ):  # Optuna's plots choose a style for the whole program
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pyplot.switch_backend("Agg")
        for name, plot in (("history", plots.plot_optimization_history), ("slice", plots.plot_slice)):
            plot(trials, target_name=f"{study.metric}{unit}")
            figure = pyplot.gcf()
            path = study.folder / f"{name}.png"
            figure.savefig(path, dpi=130, bbox_inches="tight")
            pyplot.close(figure)
            drawn.append(path)
    return drawn


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
