"""What the command line says when something is wrong: one sentence, with the valid choices."""

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NoReturn

from hydra import compose
from hydra._internal.utils import get_args
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.engine.build import Stopped, UserError
from experiments.engine.configuration import Files, composing, groups, options
from experiments.engine.overrides import Overrides, one_value

# A disk that is full, read-only, broken or not ours, or a file in the place of a folder.
DISK = (
    *(
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ESTALE,
    ),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
RESUME = "The same command again goes on from the last checkpoint."
BUSY = os.EX_TEMPFAIL  # the exit status where another process trains the same run


@contextlib.contextmanager
def one_sentence_errors(*, training: bool = False) -> Iterator[None]:
    """Ends the program with the message alone for errors that are the user's to mend.

    Args:
        training: whether a run is trained. Then the message stands on a line of its own, after that of the progress,
            and says how the run goes on where it was interrupted.

    Raises:
        SystemExit: status 2 for an error, 75 where another process is at the same run, 143 after SIGTERM, 130 after
            Ctrl-C.
    """
    from experiments.engine.rundir import BusyError

    before, after = ("\n", f" {RESUME}") if training else ("", "")
    try:
        yield
    except BusyError as error:
        message, status = str(error), BUSY
    except (UserError, FileNotFoundError, FloatingPointError) as error:
        message, status = str(error), 2
    except OSError as error:
        if error.errno not in DISK:
            raise
        message = f"{error.filename or 'A file'} cannot be written: {error.strerror}.{after}"
        status = 2
    except Stopped as error:
        message, status = f"{error}{after}", 128 + signal.SIGTERM
    except KeyboardInterrupt:
        message, status = f"Stopped.{after}", 128 + signal.SIGINT
    else:
        return
    print(f"{before}{message}", file=sys.stderr)
    sys.exit(status)


def explain_bad_overrides(arguments: Sequence[str]) -> None:
    """Ends the program, exit status 2, if an override names a key or an option that does not exist, listing those
    that do. Hydra would refuse it too, but lists only options, not keys."""
    asked = get_args(list(arguments))
    if not asked.overrides or asked.shell_completion or asked.hydra_help or asked.config_path:
        return
    try:
        overrides = Overrides.parse(asked.overrides)
    except UserError as error:
        _end(str(error))
    folder = asked.config_dir and os.path.abspath(asked.config_dir)
    if folder and not os.path.isdir(folder):
        _end(
            f"--config-dir {asked.config_dir} is no folder: name one with files such as experiment/mine.yaml."
        )
    files = Files((asked.config_name or "train").removesuffix(".yaml"), folder)
    with composing(files) as make:
        known = {key for key in overrides.keys if key in groups()}
        chosen = {}
        for key in sorted(known):
            for value in overrides.choices(key):
                if value not in (valid := options(key)):
                    _refuse(f"{key}={value}: there is no such {key}", _close(value, valid), valid)
                chosen[key] = value
        added = {one.key_or_group for one in overrides if one.is_add()}
        words = [f"{'+' if key in added else ''}{key}={value}" for key, value in chosen.items()]
        try:
            cfg = make(words)
        except HydraException as error:
            _end(_one_sentence(str(error), chosen))
        for one in overrides:
            key = one.key_or_group
            if not (
                key in known or one.is_add() or one.is_force_add() or key.split("/")[0].startswith("hydra")
            ):
                _check_key(cfg, key, groups())
        for experiment in overrides.choices("experiment"):
            others = [word for word in words if not word.lstrip("+").startswith(("experiment=", "trainer="))]
            _check_schedule(files.name, [*others, f"experiment={experiment}"], overrides.choices("trainer"))
        if not (asked.multirun or "sweep" in overrides or "hydra.mode" in overrides):
            _check_single(overrides, known)


def _check_schedule(main: str, words: Sequence[str], trainers: Sequence[str]) -> None:
    """Ends the program if a run's own schedule is another of the kind that is chosen: paper_birds for paper.

    words: overrides of the groups, the experiment last, without the trainer.
    """
    if "paper" in trainers:
        own = compose(main, list(words), return_hydra_config=True).hydra.runtime.choices.get("trainer") or ""
        if own.startswith("paper_"):
            _end(
                f"trainer=paper is not the paper's schedule of {words[-1]}: leave it out, or write trainer={own}."
            )


def _check_single(overrides: Overrides, known: Collection[str]) -> None:
    """Ends the program if an override gives several values and no sweep is asked for.   known: groups of configs."""
    for one in overrides:
        if one.is_sweep_override():
            quoted = None if one.key_or_group in known else one_value(str(one.input_line))
            as_one = f", or quote the value to make it one: {quoted}" if quoted else ""
            _end(f"{one.input_line} gives several values: add -m to run each of them{as_one}.")


def _check_key(cfg: DictConfig, key: str, known: Sequence[str]) -> None:
    """Ends the program if the configuration has no such key."""
    node: object = cfg
    path: list[str] = []
    parts = key.split(".")
    for part in parts:
        if not isinstance(node, DictConfig):
            return
        if part not in node.keys():  # noqa: SIM118 (`in` leaves out what is ???)
            where = ".".join(path) or "the configuration"
            names = sorted(str(name) for name in node if not str(name).startswith("_"))
            valid = [".".join([*path, name]) for name in names]
            if not path:
                valid = sorted({*valid, *known})
            _refuse(f"{key}: {where} has no key {part!r}", _elsewhere(cfg, parts[len(path) :], valid), valid)
        path.append(part)
        node = OmegaConf.select(cfg, ".".join(path), throw_on_resolution_failure=False)


def _elsewhere(cfg: DictConfig, missing: Sequence[str], valid: Sequence[str]) -> list[str]:
    """Keys that may be meant: the same name anywhere, then a like one at this level, then a like one anywhere."""
    every = list(_keys(cfg))
    for start in range(len(missing)):
        ending = ".".join(missing[start:])
        if same := [key for key in every if f".{key}".endswith(f".{ending}")]:
            return same
    return _close(missing[0], valid) or _close(missing[-1], every)


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration, those that are ??? too; not what is written elsewhere and only quoted."""
    if not isinstance(node, DictConfig):
        return
    for name in map(str, node.keys()):
        key = f"{prefix}{name}"
        if name.startswith("_") or key == "hydra":
            continue
        yield key
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            yield from _keys(node[name], f"{key}.")


def _close(word: str, valid: Sequence[str]) -> list[str]:
    """Those of the valid keys or values whose last part is spelt almost like the word, or is its initials, as lr is."""
    last = {one.rsplit(".", 1)[-1] for one in valid}
    initials = "".join(part[:1] for part in word.split("_"))
    names = (
        [initials] if "_" in word and initials in last else difflib.get_close_matches(word, sorted(last), n=1)
    )
    return [one for one in valid if one.rsplit(".", 1)[-1] in names]


def _one_sentence(problem: str, chosen: Mapping[str, str]) -> str:
    """What Hydra says of groups that cannot be chosen so, in the words of the command line."""
    experiment = chosen.get("experiment", "mnist_rts")
    if found := re.match(r"Could not override '([^']+)'", problem):
        group = found[1]
        return f"{group}={chosen.get(group)}: experiment={experiment} has nothing to choose by {group}=."
    if found := re.match(r"You must specify '([^']+)'.*?Available options:(.*)", problem, re.DOTALL):
        return f"experiment={experiment} does not run without {found[1]}=: choose one of {', '.join(found[2].split())}."
    return " ".join(problem.split())


def _refuse(problem: str, close: Sequence[str], valid: Sequence[str]) -> NoReturn:
    hint = f" Did you mean {' or '.join(close[:3])}?" if close else ""
    _end(f"{problem}.{hint} Valid: {', '.join(valid)}.")


def _end(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)
