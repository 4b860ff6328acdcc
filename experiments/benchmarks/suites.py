"""The suites by name. Each takes a number of rounds and returns its table."""

from collections.abc import Callable

from experiments.benchmarks.accuracy import accuracy
from experiments.benchmarks.data import distort, sampler
from experiments.benchmarks.photographs import birds
from experiments.benchmarks.rows import Table
from experiments.benchmarks.start import start
from experiments.benchmarks.training import gpu, overhead, seeds, size, train, tricks

SUITES: dict[str, Callable[[int], Table]] = {
    "distort": distort,
    "sampler": sampler,
    "train": train,
    "tricks": tricks,
    "overhead": overhead,
    "seeds": seeds,
    "size": size,
    "birds": birds,
    "start": start,
    "gpu": gpu,
    "accuracy": accuracy,
}
ALL = tuple(name for name in SUITES if name != "accuracy")  # that one trains for the better part of an hour
