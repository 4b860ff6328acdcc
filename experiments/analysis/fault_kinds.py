"""The kinds of trials: what disturbs a run. The docstring of a kind is what the page says of it."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from experiments.analysis import fault_starts as starts
from experiments.analysis.faults import Fault, Trial, standing
from experiments.engine import checkpoint
from experiments.engine.cli import BUSY

DAY = 86_400  # seconds


def kill(trial: Trial) -> None:
    """SIGKILL, up to three times"""
    _signals(trial, signal.SIGKILL)


def term(trial: Trial) -> None:
    """SIGTERM, up to three times"""
    _signals(trial, signal.SIGTERM)


def interrupt(trial: Trial) -> None:
    """Ctrl-C (SIGINT), up to four times, at times while torch is imported"""
    if trial.chance.random() < 0.3:
        ended = trial.start(before=starts.interrupt_imports)
        if ended.status != 128 + signal.SIGINT:
            raise Fault(f"Ctrl-C while torch is imported ends with exit status {ended.status}: {ended.said}")
    _signals(trial, signal.SIGINT)


def _signals(trial: Trial, number: signal.Signals) -> None:
    for _ in range(trial.chance.randint(1, 3)):
        trial.start(partial(starts.send, number))


def full_disk(trial: Trial) -> None:
    """no file can grow beyond some size, from nothing to that of a checkpoint; then there is room again"""
    largest = (trial.reference.folder / checkpoint.LAST).stat().st_size
    for _ in range(trial.chance.randint(1, 2)):
        size = trial.chance.choice(
            [0, int(largest ** trial.chance.uniform(0.5, 1)), trial.chance.randint(0, largest)]
        )
        trial.start(before=partial(starts.no_room, size))


def damaged(trial: Trial) -> None:
    """a killed run; then flipped bits, zeros, a cut, nothing or no file for the last checkpoint or both"""
    trial.start(partial(starts.send, signal.SIGKILL), after=0.75)
    paths = [trial.run / checkpoint.LAST, trial.run / checkpoint.BEFORE]
    found = [path for path in paths[: trial.chance.choice([1, 1, 2])] if path.exists()]
    for path in found:
        trial.spoil(path, trial.chance.choice(["flip", "blank", "cut", "empty", "remove"]))
    left = [path for path in paths if path.exists()]
    if not left or standing(trial.run) != -1:
        return
    for _ in left:  # do what the sentence says
        ended = trial.start()
        named = [
            path for path in left if path.exists() and f"{path.relative_to(trial.folder)} " in ended.said
        ]
        if ended.status != 2 or not named or "Delete it" not in ended.said:
            raise Fault(f"of damaged checkpoints alone, it says: {ended.said}")
        named[0].unlink()


def torn(trial: Trial) -> None:
    """a killed or finished run; then a cut, zeros or nothing in config.json, metrics.jsonl or result.json"""
    if trial.chance.random() < 0.5:
        trial.start()
    else:
        trial.start(partial(starts.send, signal.SIGKILL), after=0.65)
    names = [name for name in ("config.json", "metrics.jsonl", "result.json") if (trial.run / name).exists()]
    for name in trial.chance.sample(names, min(len(names), trial.chance.randint(1, 2))):
        trial.spoil(trial.run / name, trial.chance.choice(["blank", "cut", "empty"]))
        trial.same_history &= name != "metrics.jsonl"


def two(trial: Trial) -> None:
    """two processes at one run: one is held at a moment until the other has ended"""
    stop = partial(starts.send, signal.SIGSTOP)
    first = trial.begin(stop)
    first.until_stopped()
    second = trial.start()
    if second.status not in (0, BUSY):
        raise Fault(f"the second process ends with exit status {second.status}: {second.said}")
    stands = standing(trial.run)
    first.go_on()
    trial.judge(first.end(), stands, stop)


def clock(trial: Trial) -> None:
    """the clock is set back by up to a year during a run whose files are from the future then"""
    trial.start(partial(starts.send, signal.SIGKILL))
    back = DAY * trial.chance.randint(1, 365)
    for path in trial.outputs.rglob("*"):
        os.utime(path, (time.time() + back,) * 2)
    _goes_on(trial.start(partial(starts.set_clock_back, back)))


def data(trial: Trial) -> None:
    """the images or their decoded copies vanish between two starts or during one, or are cut; then they are back"""
    images, away, cache = trial.folder / "images", trial.folder / "away", trial.outputs / "cache"
    match trial.chance.choice(["between", "during", "cache", "cut"]):
        case "between":
            trial.start(partial(starts.send, signal.SIGKILL))
            images.rename(away)
            trial.start()
        case "during":
            trial.start(partial(starts.move, images, away))
        case "cache":
            trial.start(partial(starts.vanish, cache))
        case "cut":
            trial.start(partial(starts.send, signal.SIGKILL), after=0.5)
            for path in sorted(cache.glob("*.bin")):
                trial.spoil(path, "cut")
    if away.exists():
        away.rename(images)


def wandb_start(trial: Trial) -> None:
    """W&B cannot be imported, or has no account"""
    if trial.chance.random() < 0.5:
        _goes_on(trial.start(before=starts.no_wandb))
    else:
        trial.command.append("wandb.mode=online")
        _goes_on(trial.start())


def wandb_dies(trial: Trial) -> None:
    """W&B's own process is killed"""
    _goes_on(trial.start(starts.kill_children, before=starts.note_children))


def wandb_refuses(trial: Trial) -> None:
    """W&B's folder cannot be written, from the start or from a moment on"""
    blocked = partial(starts.block, trial.outputs / "wandb")
    _goes_on(trial.start(before=blocked) if trial.chance.random() < 0.3 else trial.start(blocked))


def _goes_on(ended: starts.Ended) -> None:
    if ended.status != 0:
        raise Fault(f"it does not go on: exit status {ended.status}, {ended.said}")


# Name -> the kind, the main file of its runs, and what its command has besides.
KINDS: dict[str, tuple[Callable[[Trial], None], str, tuple[str, ...]]] = {
    "kill": (kill, "digits", ()),
    "term": (term, "digits", ()),
    "interrupt": (interrupt, "digits", ()),
    "full_disk": (full_disk, "digits", ()),
    "damaged": (damaged, "digits", ()),
    "torn": (torn, "digits", ()),
    "two": (two, "digits", ()),
    "clock": (clock, "digits", ()),
    "data": (data, "images", ()),
    "wandb_start": (wandb_start, "digits", ("wandb.mode=offline",)),
    "wandb_dies": (wandb_dies, "digits", ("wandb.mode=offline",)),
    "wandb_refuses": (wandb_refuses, "digits", ("wandb.mode=offline",)),
}
