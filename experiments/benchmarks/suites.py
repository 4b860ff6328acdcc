"""The suites by name, and what they measured: results/benchmarks.json.

The file holds for each suite a list of sections, one for each kind of machine: its rows, and where, when and with what
they were measured. Numbers are as measured, with units in their keys; page.py writes them out.
"""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks.birds import birds
from experiments.benchmarks.data import distort, sampler
from experiments.benchmarks.processes import accuracy, start
from experiments.benchmarks.timing import Row, SkippedError
from experiments.benchmarks.training import gpu, overhead, seeds, size, train, tricks
from experiments.engine.compute import choose
from experiments.engine.files import write_json
from experiments.engine.provenance import git_revision, versions

Section = dict[str, Any]
Measured = dict[str, list[Section]]  # suite -> sections, the content of the file

# Each takes a number of rounds; the first line of its docstring is its title on the page, the rest stands below.
SUITES: dict[str, Callable[[int], list[Row]]] = {
    suite.__name__: suite
    for suite in (distort, sampler, train, tricks, overhead, seeds, size, birds, start, gpu, accuracy)
}
ALL = tuple(name for name in SUITES if name != "accuracy")  # that one trains six networks


def measure(name: str, rounds: int) -> Section:
    """A suite on this machine.   raises: SkippedError where the machine lacks what the suite needs."""
    rows = SUITES[name](rounds)
    compute = choose("auto", "auto", None)
    return {
        "device": compute.name,
        "bf16_in_hardware": compute.precision == "bf16",
        "rounds": rounds if name in ALL else None,  # accuracy has seeds instead
        "date": datetime.date.today().isoformat(),
        "versions": versions("kornia", "scipy"),
        **git_revision(),
        "rows": rows,
    }


def machine(section: Section) -> tuple[str, bool]:
    return section["device"], section["bf16_in_hardware"]


def merge(measured: Measured, name: str, section: Section) -> None:
    """Puts a section in place of the one of the same kind of machine, or beside those of others."""
    others = [one for one in measured.get(name, []) if machine(one) != machine(section)]
    measured[name] = [*others, section]


def run_suites(
    names: list[str], *, rounds: int, path: Path | None, show: Callable[[str, Section], str]
) -> Measured:
    """Measures suites one after the other, prints each, and merges it into the file as soon as it is measured.

    Args:
        names: Keys of `SUITES`; what cannot be measured here is skipped with a sentence.
        rounds: How often each side of a comparison is measured.
        path: Of the file; None to print only.
        show: The text of a section.

    Returns:
        The file's content.
    """
    measured: Measured = json.loads(path.read_text()) if path and path.exists() else {}
    for name in names:
        try:
            section = measure(name, rounds)
        except SkippedError as reason:
            print(f"{name} is skipped: {reason}", flush=True)
            continue
        merge(measured, name, section)
        print(show(name, section), flush=True)
        if path:
            write_json(path, measured)
    return measured
