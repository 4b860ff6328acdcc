"""A run's network as a file: what other programs compute with it is what the network computes."""

import numpy as np
import pytest
import torch

from experiments.analysis import export
from experiments.engine import rundir
from experiments.engine.run import load_run, run


@pytest.fixture
def finished(configure):
    cfg = configure("experiment=mnist_r", "model=st_fcn", "transform=tps")
    run(cfg)
    return rundir.run_dir(cfg)


def test_the_files_compute_what_the_network_computes(finished, script, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    data, network, _ = load_run(finished)
    images = next(iter(data.test.batches(7)))[0]  # another number than at the export
    with torch.no_grad():
        logits, aux = network(images)
    expected = {"logits": logits, **aux}
    for name in ("model.onnx", "model.pt2"):
        code, said, _ = script("export.py", str(finished), "--out", str(tmp_path / name))
        assert code == 0 and "images (batch, 1, 28, 28) -> logits, theta, warped; within" in said
        if name == "model.onnx":
            session = onnxruntime.InferenceSession(str(tmp_path / name))
            found = dict(zip(expected, session.run(list(expected), {"images": images.numpy()}), strict=True))
            assert [one.name for one in session.get_outputs()] == list(expected)
            assert session.get_inputs()[0].shape == ["batch", 1, 28, 28]
        else:
            found = torch.export.load(tmp_path / name).module()(images)
        for key, one in expected.items():
            np.testing.assert_allclose(np.asarray(found[key].tolist()), one.numpy(), atol=2e-5)
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.onnx", "model.pt2"]


def test_what_cannot_be_written_is_refused_in_one_sentence(finished, script, tmp_path, monkeypatch):
    def refused(*words: str) -> str:
        code, _, said = script("export.py", *words)
        assert code == 2 and list(tmp_path.glob("model*")) == []
        return said.strip()

    out = str(tmp_path / "model.pt2")
    assert "is one of .onnx, .pt2." in refused(str(finished), "--out", str(tmp_path / "model.txt"))
    assert "has no config.json" in refused(str(tmp_path), "--out", out)
    found = export._pt2
    monkeypatch.setattr(export, "_pt2", lambda *how: lambda images: [1.1 * x for x in found(*how)(images)])
    assert "differs from the trained one in" in refused(str(finished), "--out", out)
    monkeypatch.setattr(export, "_installed", lambda package: False)
    assert "pip install -e '.[export]'" in refused(str(finished), "--out", str(tmp_path / "model.onnx"))
