"""What the command line says when something is wrong: one sentence, with the valid choices."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.engine.configuration import CONFIGS, configuration

BUSY = os.EX_TEMPFAIL  # the exit status where another process trains the same run


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Ends the program with the message alone for errors that are the user's to mend, exit status 2; 75 where another
    process is at the same run."""
    from experiments.engine.build import UserError
    from experiments.engine.rundir import BusyError

    try:
        yield
    except BusyError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(BUSY)
    except (UserError, FileNotFoundError, FloatingPointError) as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nStopped. The same command again goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


def explain_bad_overrides(arguments: Sequence[str]) -> None:
    """Ends the program, exit status 2, if an override names a key or an option that does not exist, listing those
    that do. Hydra would refuse it too, but lists only options, not keys."""
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return  # hydra's own message points at the very character
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    chosen = []
    for override in parsed:
        key = override.key_or_group
        if key in groups and not override.is_delete():
            options = sorted(p.stem for p in (CONFIGS / key).glob("*.yaml"))
            values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
            for value in map(str, values):
                if value not in options:
                    _refuse(f"{key}={value}: there is no such {key}", value, options)
                added = "+" if override.is_add() else ""
                chosen = [c for c in chosen if c.lstrip("+").split("=")[0] != key] + [f"{added}{key}={value}"]
    cfg = configuration(chosen)
    for override in parsed:
        key = override.key_or_group
        if key in groups or override.is_add() or override.is_force_add() or key.startswith("hydra"):
            continue
        node: object = cfg
        path: list[str] = []
        for part in key.split("."):
            if not isinstance(node, DictConfig):
                break
            if part not in node.keys():  # noqa: SIM118 (`in` leaves out what is ???)
                where = ".".join(path) or "the configuration"
                valid = sorted(str(k) for k in node if not str(k).startswith("_"))
                if not path:
                    valid = sorted({*valid, *groups})
                _refuse(f"{key}: {where} has no key {part!r}", part, [".".join([*path, k]) for k in valid])
            path.append(part)
            node = OmegaConf.select(cfg, ".".join(path), throw_on_resolution_failure=False)


def _refuse(problem: str, word: str, valid: list[str]) -> None:
    close = difflib.get_close_matches(word, [v.rsplit(".", 1)[-1] for v in valid], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    print(f"{problem}.{hint} Valid: {', '.join(valid)}.", file=sys.stderr)
    sys.exit(2)
