"""Runs trials of what a run survives, and writes the page of them: results/faults.json -> results/faults.md."""

import datetime
import fnmatch
import inspect
import json
import logging
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from PIL import Image

from experiments.analysis.fault_kinds import KINDS
from experiments.analysis.fault_starts import Starting
from experiments.analysis.faults import Fault, Reference, Trial
from experiments.engine.build import UserError
from experiments.engine.files import write_atomically, write_json
from experiments.engine.provenance import git_revision, versions
from experiments.report import markdown_table

log = logging.getLogger(__name__)

COMMAND = "python scripts/faults.py"
TINY = """trainer: {iterations: 20, batch_size: 8, log_every: 2, checkpoint_every: 4, val_every: 4}
model: {width: 4}
wandb: {mode: disabled}
figures: false
threads: 1
device: cpu
"""
# The main files of the runs, and an experiment. As overrides, the values would take seconds for the run's name.
CONFIGS = {
    "digits.yaml": "defaults: [train, override model: st_cnn_bn, override dataset: digits, override trainer: smoke, "
    f"_self_]\ndataset: {{val_size: 40}}\n{TINY}",
    "images.yaml": f"defaults: [train, override experiment: few_images, override trainer: smoke, _self_]\n{TINY}",
    "experiment/few_images.yaml": "# @package _global_\ndefaults:\n  - override /dataset: own_images\n"
    "  - override /model: st_cnn_bn\nexperiment: few_images\ndataset: {size: 32, root: images}\n",
}


class Lab:
    """Where trials are made.

    Args:
        folder: for their files; it must not exist, or be empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs" / "experiment").mkdir(parents=True)
        for name, text in CONFIGS.items():
            (folder / "configs" / name).write_text(text)
        self._references: dict[tuple[str, ...], Reference] = {}

    def trial(self, name: str) -> dict[str, Any]:
        """Makes one trial.

        Args:
            name: `<kind>-<number>`.

        Returns:
            `name`; `starts`, how each start of it ended; `fault`, None or what is wrong; `seconds`.
        """
        kind, config, more = KINDS[name.rpartition("-")[0]]
        began = time.perf_counter()
        reference = self._reference(config, *more)
        folder = _made(self.folder / name, config)
        trial = Trial(name, folder, reference, _command(config, *more))
        fault = None
        try:
            kind(trial)
            trial.finish()
            shutil.rmtree(folder)
        except Fault as error:
            fault = str(error)
        seconds = round(time.perf_counter() - began, 1)
        return {"name": name, "starts": trial.starts, "fault": fault, "seconds": seconds}

    def _reference(self, config: str, *more: str) -> Reference:
        if (config, *more) not in self._references:
            folder = _made(self.folder / "-".join(["undisturbed", config, *more]), config)
            ended = Starting(_command(config, *more), folder, moment=None).end()
            found = list((folder / "outputs").glob("*/*/*/result.json"))
            if ended.status != 0 or len(found) != 1 or ended.calls is None:
                raise RuntimeError(f"The undisturbed run fails with exit status {ended.status}: {ended.said}")
            run = found[0].parent
            reference = Reference(run, run.relative_to(folder / "outputs"), ended.calls)
            self._references[config, *more] = reference
        return self._references[config, *more]


def _command(config: str, *more: str) -> list[str]:
    """Of a run, in the folder of its own that it is given in."""
    return ["--config-dir=../configs", f"--config-name={config}", *more]


def _made(folder: Path, config: str) -> Path:
    """The folder, with images in it where the runs are of images."""
    folder.mkdir()
    if config == "images":
        _draw(folder / "images")
    return folder


def _draw(folder: Path) -> None:
    """Two classes of eight noisy images."""
    noise = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            pixels = noise.integers(0, 256, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


def planned(count: int, only: str = "*") -> list[str]:
    """The names of so many trials, of all kinds in turn, of which those are left that `only` matches.

    Raises:
        UserError: none is left.
    """
    names = [f"{list(KINDS)[i % len(KINDS)]}-{i // len(KINDS)}" for i in range(count)]
    if not (left := fnmatch.filter(names, only)):
        raise UserError(f"--only {only} matches none of {count} trials: their kinds are {', '.join(KINDS)}.")
    return left


def run(names: Sequence[str], path: Path | None = None) -> list[str]:
    """Makes trials, one after the other, and logs how each ends.

    Args:
        names: of the trials.
        path: a JSON file of them, written after every trial, with a page beside it. None: none.

    Returns:
        The names of the trials with a fault. Their folders are kept, and named in the log.
    """
    lab = Lab(Path(mkdtemp(prefix="faults-")) / "lab")
    facts = {"date": datetime.date.today().isoformat(), **git_revision(), "versions": versions()}
    trials: list[dict[str, Any]] = []
    for name in names:
        trials.append(trial := lab.trial(name))
        log.info("%s: %s", name, trial["fault"] or f"as undisturbed, {_starts(trial)} starts")
        if path is not None:
            write_json(path, facts | {"trials": trials})
            write_page(path)
    faulty = [trial["name"] for trial in trials if trial["fault"]]
    if faulty:
        log.info("The files of the trials with a fault are in %s.", lab.folder)
    else:
        shutil.rmtree(lab.folder.parent)
    return faulty


def write_page(path: Path) -> Path:
    """Writes the page beside the JSON file of trials."""
    held = json.loads(path.read_text())
    rows: list[list[str]] = []
    said: list[list[str]] = []
    for kind, (what, _, _) in KINDS.items():
        trials = [one for one in held["trials"] if one["name"].rpartition("-")[0] == kind]
        starts = [start for one in trials for start in one["starts"] if "status" in start]
        equal = sum(one["fault"] is None for one in trials)
        spoke = [start["said"] for start in starts if start["status"] not in (0, None) and start["said"]]
        rows.append(
            [kind, str(inspect.getdoc(what)), *map(str, (len(trials), len(starts), len(spoke), equal))]
        )
        said += [[kind, start] for start in dict.fromkeys(map(_general, spoke))]
    revision = (held["git_revision"] or "unknown")[:7] + (" (dirty)" if held["git_dirty"] else "")
    libraries = ", ".join(f"{library} {version}" for library, version in held["versions"].items())
    faults = [
        f"- **{one['name']}**: {_general(one['fault'].splitlines()[0])}"
        for one in held["trials"]
        if one["fault"]
    ]
    about = (
        f"`{COMMAND} --trials {len(held['trials'])} --json {path}` makes all of this again. A trial is a tiny run that "
        "is disturbed at moments drawn by chance. The same command is then given once more, undisturbed. Every start "
        "has to end well or in one sentence, and may lose no checkpoint that it found. In the end, the result, the "
        "checkpoint with optimiser, data stream and random state, the best weights, the predictions and the logged "
        "numbers have to be those of a run that was never disturbed, bit for bit. The name of a trial is its seed: "
        f"`{COMMAND} --only kill-3` repeats one."
    )
    lines = [
        f"<!-- Generated by `{COMMAND}`; never edited by hand. -->\n",
        "# What a run survives\n",
        f"{about}\n",
        markdown_table(
            ["kind", "what happens", "trials", "starts", "sentences", "equal to the bit"], rows, "llrrrr"
        ),
        "## Faults\n",
        *(faults or ["None."]),
        "\n## What the starts said\n",
        markdown_table(["kind", "sentence"], said, "ll"),
        f"{held['date']}; {libraries}; git revision {revision}.\n",
    ]
    page = path.with_suffix(".md")
    write_atomically(page, lambda temporary: temporary.write_text("\n".join(lines), encoding="utf-8"))
    return page


def _general(sentence: str) -> str:
    """Without what differs from trial to trial, so that equal sentences are listed once."""
    short = re.sub(r"\S+/(?=\w+\.(pt|json|jsonl)\b)", "", sentence)
    return re.sub(
        r"outputs/\S+?(?=[:,. ])", "the run directory", re.sub(r"(step|char|column|line) \d+", r"\1 …", short)
    )


def _starts(trial: dict[str, Any]) -> int:
    return sum("status" in start for start in trial["starts"])
