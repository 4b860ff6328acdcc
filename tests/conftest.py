"""MNIST and Chromium, for the tests that need them; how many examples hypothesis tries."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, which reaches nothing but this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-page")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        # Root may not sandbox; names of other hosts do not resolve, as without a network.
        options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        running = playwright.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()
