"""Trained networks as files: what comes back is what was written, in half precision, and damage is found."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from stn.models import pretrained, pretrained_names
from stn.models.weights import FOLDER, Card, load_weights, save_weights, write_sums
from stn.transforms import ThinPlateSpline

ROOT = Path(__file__).resolve().parents[3]
CARD = Card(
    network="st_cnn",
    in_shape=(1, 28, 28),
    arguments={"num_classes": 7, "width": 3, "pool": 1},
    transform="ThinPlateSpline",
    transform_arguments={"control_points": [3, 3]},
    run="mnist_r/st_cnn-tps-fast-seed_0",
    published_error=1.5,
    test_error=1.25,
    test_fingerprint="ab",
)


@pytest.fixture
def stored(tmp_path):
    model = CARD.build()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    save_weights(tmp_path / "mnist_r" / "st_cnn-tps.safetensors", model, CARD)
    write_sums(tmp_path)
    return tmp_path, model


def test_what_comes_back_is_the_network_rounded_to_half_precision(stored):
    folder, model = stored
    card, loaded = load_weights(folder / "mnist_r" / "st_cnn-tps.safetensors")
    assert card == CARD and not loaded.training
    assert isinstance(loaded.transformers.transform, ThinPlateSpline)
    assert loaded.transformers.transform.num_params == 18
    for name, x in model.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), x.numpy().astype(np.float16).astype(np.float32))
    assert pretrained_names(folder) == ["mnist_r/st_cnn-tps"]
    assert pretrained("mnist_r/st_cnn-tps", folder=folder)(torch.rand(2, 1, 28, 28))[0].shape == (2, 7)


def test_a_changed_file_is_refused(stored):
    folder, _ = stored
    path = folder / "mnist_r" / "st_cnn-tps.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that SHA256SUMS lists"):
        pretrained("mnist_r/st_cnn-tps", folder=folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "os.system"}, "no network 'os.system'"),
        ({"transform": "Transform"}, "no transform 'Transform'"),
        ({"arguments": {"width": 3, "depth": 4}}, "depth"),
        ({"arguments": {"width": 4, "num_classes": 7}}, "size mismatch"),
        ({"transform_arguments": {"points": 3}}, "points"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused(stored, changes, said):
    folder, model = stored
    path = folder / "other.safetensors"
    if changes is None:
        header = json.dumps({"x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")  # valid, without a card
    else:
        save_weights(path, model, dataclasses.replace(CARD, **changes))
    with pytest.raises(ValueError, match=r"cannot be read as the weights of a network") as refused:
        load_weights(path)
    assert said in str(refused.value)


def test_a_cut_file_and_a_missing_one(stored, tmp_path):
    folder, _ = stored
    path = folder / "mnist_r" / "st_cnn-tps.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(path)
    with pytest.raises(ValueError, match=r"no weights 'mnist_x/cnn'. There are: mnist_r/st_cnn-tps"):
        pretrained("mnist_x/cnn", folder=folder)
    with pytest.raises(FileNotFoundError, match="come with a checkout of the repository"):
        pretrained_names(tmp_path / "nowhere")


def test_every_network_of_the_repository_loads_and_is_small():
    names = pretrained_names()
    assert "mnist_rts/st_cnn-affine" in names
    for name in names:
        path = FOLDER / f"{name}.safetensors"
        assert path.stat().st_size < 1_000_000
        card = load_weights(path)[0]
        logits, _ = pretrained(name)(torch.rand(1, *card.in_shape))
        assert logits.shape == (1, 10)
        assert (ROOT / "results" / "runs" / f"{card.run}.json").exists()


def test_torch_hub_finds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = torch.hub.load(str(ROOT), "pretrained", "mnist_rts/st_cnn-affine", source="local")
    assert model(torch.rand(1, 1, 42, 42))[0].shape == (1, 10)
    shutil.rmtree(tmp_path, ignore_errors=True)
