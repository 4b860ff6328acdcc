"""Published results: results/runs/<experiment>/<run>.json, one file a run, so that machines' results merge.

Beside them are predictions and learning curves (results/details/) and the first seed's pictures (results/figures/).
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.engine.run import git_revision
from experiments.report import details
from experiments.report.section import OF_ANY_RUN
from experiments.sweeps.job import Job


def refuse_dirty_tree() -> None:
    """Keeps hours from being spent on results that would not be published.

    Raises:
        UserError: where the code differs from its commit.
    """
    if git_revision()["git_dirty"]:
        raise UserError(
            "The code has changes that are not committed, and only results of a commit are published: commit them, or "
            "give --no-publish to train without publishing."
        )


def publish(jobs: Iterable[Job], report: Callable[[str], object] = print) -> list[Path]:
    """Copies finished results from run directories to where they are published.

    A result of code that was not committed is not published, and it is said. One that is published already stays.

    Args:
        jobs: those without a place to be published at are passed over.
        report: is given the lines for the terminal.

    Returns:
        The result files that are new or changed.
    """
    written = []
    for job in jobs:
        result, path = job.result(), job.published
        if result is None or path is None:
            continue
        new = not path.exists() or Result.read(path) != result
        if new and result.git_dirty:
            report(
                f"{job.label} is not published: its code had changes that were not committed. Commit, delete "
                f"{job.folder} and run it again."
            )
            continue
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            result.write(path)
            written.append(path)
            if job.seed == 0:
                _publish_pictures(job, path)
        if (new or not details.details_path(path).exists()) and job.trained() == result:
            details.keep(job.folder, path)
    return written


def _publish_pictures(job: Job, published: Path) -> None:
    figures = details.figures_folder(published)
    for picture in sorted([*job.folder.glob("*.png"), *job.folder.glob("*.gif")]):
        if picture.stem in OF_ANY_RUN:  # results/details/ holds what they are drawn of
            continue
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, figures / f"{published.stem}-{picture.name}")
