"""The figures of a finished run drawn again, by the code as it is now: of a run directory, or of a published run."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.analysis.weights import load_result
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.interfaces import Data
from experiments.engine.overrides import Overrides
from experiments.engine.result import Result
from experiments.report import Section, details
from experiments.sections import SECTIONS
from stn.models.weights import FOLDER

WHERE = ("data_dir", "output_dir")  # keys that say where data are


def redraw(path: Path, words: Iterable[str] = (), weights: Path = FOLDER) -> list[Path]:
    """Draws the figures of a finished run again, where they were.

    Args:
        path: a run directory; or the result file of a published run whose network is among the published weights,
            results/runs/<experiment>/<run>.json. The figures of that are in results/figures/.
        words: overrides, of where the data are: data_dir=, output_dir=.
        weights: the folder of published weights.

    Returns:
        The pictures.

    Raises:
        UserError: the run is not finished, has no section or no network, the data give other test images than it had,
            or an override says something else.
    """
    given = Overrides.parse(words)
    for one in given:
        if one.key_or_group not in WHERE:
            raise UserError(
                f"{one.input_line} is not valid: figures are of the run's own data, and {' and '.join(WHERE)} "
                "say where they are."
            )
    around = configuration(given.words)
    where = {"data_dir": around.data_dir, "cache_dir": f"{around.output_dir}/cache"}
    result = _finished(path / "result.json" if path.is_dir() else path)
    data, model = load_result(result, where, weights)
    _check_same(data, result)
    section = _section(result)
    if path.is_dir():
        return list(section.figures(model, data, path, result).values())
    figures = details.figures_folder(path)
    figures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        drawn = section.draw(model, data, Path(folder), section.words.subject(result.to_dict())).values()
        return [Path(shutil.move(one, figures / f"{path.stem}-{one.name}")) for one in drawn]


def _finished(path: Path) -> Result:
    if not path.exists():
        raise UserError(f"There is no {path}: give the directory of a finished run, or a published result.")
    return Result.read(path)


def _section(result: Result) -> Section:
    name: Any = configuration([f"experiment={result.experiment}"]).section
    if name not in SECTIONS:
        raise UserError(f"experiment={result.experiment} names no section, which would draw its figures.")
    return SECTIONS[name]


def _check_same(data: Data, result: Result) -> None:
    if data.test.fingerprint != result.test_fingerprint:
        raise UserError(
            f"{result.path}: this code and these data give other test images than the run had, so that the figures "
            "would not be of its test error."
        )
