"""MNIST, for the tests that need it; how many examples hypothesis tries."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from stn.datasets.digits import Digits
from stn.datasets.mnist import load_mnist
from stn.files import DataNotFoundError

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("suite", max_examples=8, deadline=None, derandomize=True, database=None)
settings.register_profile("long", max_examples=1000, deadline=None)  # --hypothesis-profile long
settings.load_profile("suite")


@pytest.fixture(scope="session")
def real() -> Digits:
    """MNIST from STN_DATA_DIR, ./data, or a folder shared beside the repository."""
    for folder in (os.environ.get("STN_DATA_DIR"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if folder:
            try:
                return load_mnist(folder, download=False)
            except DataNotFoundError:
                continue
    pytest.skip("no MNIST in STN_DATA_DIR or data/")
