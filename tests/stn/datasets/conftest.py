"""What several files test with: the digits of scikit-learn, image files, and drawn birds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn.datasets.digits import Digits, load_digits
from stn.datasets.toy_birds import toy_birds


@pytest.fixture(scope="session")
def embedded() -> Digits:
    return load_digits()


@pytest.fixture
def files(tmp_path):
    """Twelve pictures of several sizes, one grey, one with a palette."""
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    paths = []
    for i in range(12):
        pixels = generator.integers(0, 255, (50 + 7 * i, 90 - 3 * i, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert({3: "L", 4: "P"}.get(i, "RGB"))
        paths.append(tmp_path / "in" / f"{i}.png")
        image.save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    toy_birds(folder)
    return folder / "CUB_200_2011"


@pytest.fixture
def mine(drawn, tmp_path):
    return Path(shutil.copytree(drawn, tmp_path / "mine"))
