"""What a run survives: trials that disturb train.py at moments drawn by chance and compare how the run ends.

A trial starts a tiny run, disturbs it once or several times, and gives the same command again, undisturbed. Each
start has to end well or in one sentence, and must not lose the checkpoint that it found; the last one has to end with
the same bits as a run that was never disturbed. The name of a trial is its seed.
"""

import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.analysis.fault_starts import Action, Ended, Starting
from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.cli import BUSY
from experiments.engine.history import read_history
from experiments.engine.result import Result
from stn.files import list_problems, load_tensors

FINISHED = float("inf")  # where a run stands that has its result
ONE_SENTENCE = (2, BUSY, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses that come with one


class Fault(Exception):
    """A fault of what is tried: a traceback, a lost checkpoint, another result."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        folder: its run directory.
        name: of the run directory, below the folder of outputs.
        calls: how many functions are called and left in `run`, which is the range of moments.
    """

    folder: Path
    name: Path
    calls: int


@dataclass
class Trial:
    """A run that is started several times by one command.

    Attributes:
        name: `<kind>-<number>`, the seed of all chance.
        folder: of its own.
        reference: the undisturbed run.
        command: of train.py.
        starts: how each start has ended, for the record.
        same_history: whether metrics.jsonl has to be that of the undisturbed run, and not only a part of it.
    """

    name: str
    folder: Path
    reference: Reference
    command: list[str]
    starts: list[dict[str, Any]] = field(default_factory=list)
    same_history: bool = True

    def __post_init__(self) -> None:
        self.chance = random.Random(self.name)
        self.outputs = self.folder / "outputs"
        self.run = self.outputs / self.reference.name
        self._share: float | None = None  # of the calls that come before the moment

    def begin(
        self, action: Action | None = None, *, before: Action | None = None, after: float | None = None
    ) -> Starting:
        """Starts train.py and does not wait for its end.

        Args:
            action: what disturbs it, at a moment by chance. None: nothing.
            before: what is done in its process before that.
            after: the share of its calls before which the moment does not come. None: of two trials, one is disturbed
                anywhere, and one where the training writes its files.
        """
        after = self.chance.choice([0, 0.65]) if after is None else after
        moment = self.chance.randint(int(after * self.reference.calls) + 1, self.reference.calls)
        self._share = round(moment / self.reference.calls, 3) if action else None
        return Starting(
            self.command, self.folder, before=before, action=action, moment=moment if action else 0
        )

    def start(self, action: Action | None = None, *, before: Action | None = None, after: float = 0) -> Ended:
        """As `begin`, and judges how it ends.

        Raises:
            Fault: as `judge`.
        """
        stands = standing(self.run)
        ended = self.begin(action, before=before, after=after).end()
        return self.judge(ended, stands, action or before)

    def judge(self, ended: Ended, stands: float, by: Action | None) -> Ended:
        """Records how a start has ended.

        Args:
            ended: how.
            stands: where the run stood before, as of `standing`.
            by: what has disturbed it.

        Raises:
            Fault: it ended neither well nor in one sentence, or a checkpoint or a result is lost.
        """
        said = ended.said.replace(f"{self.folder}/", "").replace(f"{self.folder.parent}/", "")
        now = standing(self.run)
        record = {"by": describe(by), "at": self._share, "came": ended.came, "status": ended.status}
        record["stands"] = _words(now)
        self.starts.append(record | {"said": said.splitlines()[-1] if said else ""})
        if ended.status is None:
            raise Fault(f"a start does not end; it says: {said[-2000:]}")
        by_signal = ended.came and ended.status in (-signal.SIGKILL, -signal.SIGTERM)
        sentence = ended.status in ONE_SENTENCE and said.endswith(".")
        if "Traceback" in said or not (ended.status == 0 or by_signal or sentence):
            raise Fault(f"exit status {ended.status}; it says: {said[-2000:]}")
        if now < stands:
            raise Fault(f"the run stood at {_words(stands)} before a start, and at {_words(now)} after it")
        return ended

    def spoil(self, path: Path, how: str) -> None:
        """Damages a file.

        Args:
            path: the file.
            how: flip: some bits; blank: a stretch becomes zeros, up to the end or not; cut, empty, remove.
        """
        content, by = bytearray(path.read_bytes()), self.chance
        self.starts.append({"spoilt": path.name, "how": how})
        start = by.randrange(len(content)) if content else 0
        match how:
            case "flip":
                for _ in range(by.randint(1, 3)):
                    content[by.randrange(len(content))] ^= 1 << by.randrange(8)
            case "blank":
                end = by.choice([len(content), by.randint(start, len(content))])
                content[start:end] = bytes(end - start)
            case "cut":
                del content[start:]
            case "empty":
                content.clear()
            case _:
                path.unlink()
                return
        path.write_bytes(content)

    def finish(self) -> None:
        """Gives the command once more, undisturbed, unless it has ended well already, and compares.

        Raises:
            Fault: as `judge`, or the run is not that which was never disturbed.
        """
        if self.starts[-1].get("status") != 0:
            ended = self.start()
            if ended.status != 0:
                raise Fault(f"undisturbed, it ends with exit status {ended.status}: {ended.said}")
        if different := differences(self.reference.folder, self.run, history=self.same_history):
            raise Fault(list_problems(different, "things are not as undisturbed"))


def standing(folder: Path) -> float:
    """The step of the newest checkpoint in a run directory that can be read; -1 without; `FINISHED` with a result."""
    try:
        Result.read(folder / "result.json")
        return FINISHED
    except UserError:
        pass
    for name in (checkpoint.LAST, checkpoint.BEFORE):
        try:
            return float(checkpoint.load(folder / name)["step"])
        except UserError:
            continue
    return -1


def _words(stands: float) -> str:
    return {-1: "nothing", FINISHED: "the end"}.get(stands) or f"step {stands:.0f}"


def differences(one: Path, other: Path, *, history: bool = True) -> list[str]:
    """What differs between two finished run directories, but for what counts seconds or names folders.

    Args:
        one: a run directory.
        other: another; half-written files in it count too.
        history: whether metrics.jsonl has to be equal; else that of `other` is a part of that of `one`.
    """
    found = [path.name for path in other.rglob(".*.tmp")]
    results = [Result.read(folder / "result.json") for folder in (one, other)]
    for key in ("metrics", "iterations", "parameters", "width", "test_fingerprint", "seed"):
        if getattr(results[0], key) != getattr(results[1], key):
            found.append(f"{key} of result.json")
    for name in (checkpoint.LAST, "best.pt", "predictions.pt"):
        if (one / name).exists() or (other / name).exists():
            keys = _unequal(*(load_tensors(folder / name) for folder in (one, other)))
            found += [f"{name}{key}" for key in keys if key != ".seconds"]
    lines = [read_history(folder / "metrics.jsonl") for folder in (one, other)]
    for _, metrics in (*lines[0], *lines[1]):
        metrics.pop("images_per_second", None)
    if lines[0] != lines[1] if history else any(line not in lines[0] for line in lines[1]):
        found.append("metrics.jsonl")
    return found


def _unequal(one: Any, other: Any, path: str = "") -> list[str]:
    """Dotted keys of the values that are not equal to the bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return [found for key in one for found in _unequal(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [found for i in range(len(one)) for found in _unequal(one[i], other[i], f"{path}.{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [path]
    return [] if type(one) is type(other) and one == other else [path]


def describe(action: Action | None) -> str:
    """Such as "send 9" of a partial; "" of None."""
    if not isinstance(action, partial):
        return action.__name__ if action else ""
    arguments = (one.name if isinstance(one, Path) else str(int(one)) for one in action.args)
    return " ".join([action.func.__name__, *arguments])
