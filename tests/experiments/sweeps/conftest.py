"""Finished runs without a training."""

from pathlib import Path

import pytest

from experiments.engine.configuration import configuration
from experiments.engine.identity import stored, transform_name
from experiments.engine.result import Result
from experiments.sweeps import process, publish
from experiments.sweeps.job import Job


def result_of(cfg, *, seconds=60.0, device="here", error=1.0, dirty=False) -> Result:
    return Result(
        experiment=cfg.experiment, dataset=cfg.dataset.name, model=cfg.model.name, transform=transform_name(cfg),
        trainer=cfg.trainer.name, seed=cfg.seed, metrics={"test_error": error}, width=None, parameters=1,
        iterations=cfg.trainer.iterations, wall_seconds=seconds, images_per_second=None, git_revision="a" * 40,
        git_dirty=dirty, versions={}, device=device, test_fingerprint="", config_hash="", config=stored(cfg),
    )  # fmt: skip


@pytest.fixture
def finished():
    """finished("experiment=mnist_r", seconds=3.0): the result of a run."""
    return lambda *overrides, **changes: result_of(configuration(overrides), **changes)


@pytest.fixture
def finish():
    """finish(job): writes its result into the run directory; where="results": to where it is published."""

    def write(job: Job, where: str = "outputs", **changes) -> Result:
        path = job.folder / "result.json" if where == "outputs" else job.published
        path.parent.mkdir(parents=True, exist_ok=True)
        result = result_of(job.cfg, **changes)
        result.write(path)
        return result

    return write


@pytest.fixture
def tree(monkeypatch):
    """The state of the code: tree["git_dirty"] = True is one with changes that are not committed."""
    state = {"git_revision": "a" * 40, "git_dirty": False}
    monkeypatch.setattr(publish, "git_revision", lambda: state)
    return state


@pytest.fixture
def trainings(monkeypatch, finish):
    """Stands in for train.py in the pool: trainings.end(overrides) is the exit status; 0 leaves a result."""

    class Trainings(list):
        jobs: dict[Path, Job]

        def end(self, job):
            return 0

        def of(self, jobs):
            """The jobs that will be trained, those that they require too."""
            for job in jobs:
                self.jobs[job.folder] = job
                self.of(job.requires)
            return jobs

    made = Trainings()
    made.jobs = {}

    def train(overrides, **how):
        job = next(job for job in made.jobs.values() if job.overrides.words == list(overrides))
        made.append((job, how))
        status = made.end(job)
        if status == 0:
            finish(job)
        return status

    monkeypatch.setattr(process, "train", train)
    return made
