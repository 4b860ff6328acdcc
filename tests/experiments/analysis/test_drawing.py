"""What the drawing page is built of: distortions and networks, as the training and PyTorch have them."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from experiments.analysis import drawing
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from stn import Affine, Projective, ThinPlateSpline
from stn.datasets.digits import load_digits
from stn.models.mnist import cnn, st_cnn
from stn.models.weights import Card, save_weights, write_sums


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load_digits().test_images[:8].float() / 255


def draws(experiment: str, count: int, options) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The random numbers of a training distortion, (B, 4) and (B, bends), in the order that appendix A.4 is read in."""
    generator = torch.Generator().manual_seed(3)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    zero, one = torch.zeros(count), torch.ones(count)
    if experiment == "mnist_r":
        return torch.stack([uniform(-90, 90), one, zero, zero], 1), None
    if experiment == "mnist_rts":
        angle, size = uniform(-45, 45), uniform(0.7, 1.2)
        room = (42 - 28 * size) / 2
        return torch.stack([angle, size, room * uniform(-1, 1), room * uniform(-1, 1)], 1), None
    size = uniform(0.75, 1)
    bends = {"mnist_p": 8, "mnist_e": 32}[experiment]
    noise = torch.randn(count, bends, generator=generator)
    return torch.stack([zero, size, zero, zero], 1), noise * options.std


@pytest.mark.parametrize("experiment", drawing.COLUMNS)
def test_a_distortion_is_the_trainings_with_its_random_numbers_given(experiment, digits):
    options = configuration([f"experiment={experiment}"]).dataset.distort
    trained = instantiate(options)(digits, torch.Generator().manual_seed(3))
    poses, bend = draws(experiment, len(digits), options)
    distortion = drawing.Distortion(options)
    assert distortion.bends == (0 if bend is None else bend.shape[1])
    ours = distortion(digits, poses) if bend is None else distortion(digits, poses, bend)
    torch.testing.assert_close(ours["image"], trained, atol=2e-5, rtol=0)


def test_p_and_e_turn_and_move_as_r_does(digits):
    poses = torch.tensor([[25.0, 1.0, 3.0, -2.0]]).expand(len(digits), 4)
    of = {name: configuration([f"experiment={name}"]).dataset.distort for name in drawing.COLUMNS}
    expected = drawing.Distortion(of["mnist_r"])(digits, poses)["image"]
    for name in ("mnist_p", "mnist_e"):
        distortion = drawing.Distortion(of[name])
        ours = distortion(digits, poses, torch.zeros(len(digits), distortion.bends))["image"]
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_an_unknown_distortion_is_refused():
    options = configuration(["experiment=mnist_p", "dataset.distort.corners=image"]).dataset.distort
    with pytest.raises(UserError, match="does not know the distortion"):
        drawing.Distortion(options)


@pytest.mark.parametrize(
    "transform", [Affine(), Projective(), ThinPlateSpline()], ids=lambda t: type(t).__name__
)
def test_the_window_is_the_border_of_the_output_mapped_by_theta(transform, digits):
    torch.manual_seed(0)
    network = st_cnn((1, 28, 28), transform=transform, width=2)
    torch.nn.init.normal_(network.transformers.networks[0].head.weight, std=0.3)
    shown = drawing.Shown(network)(digits)
    for theta, window in zip(shown["theta"].detach().numpy(), shown["window"].detach().numpy(), strict=True):
        top_left, top_right = window[0, 0], window[0, -1]
        if isinstance(transform, ThinPlateSpline):  # control points go to the places that theta says
            crossings = window[:4, [0, 8, 16, 24]].reshape(-1)
            np.testing.assert_allclose(crossings, theta, atol=1e-4)
        else:
            matrix = np.append(theta, [0, 0, 1] if len(theta) == 6 else [1]).reshape(3, 3)
            for corner, found in (([-1, -1, 1], top_left), ([1, -1, 1], top_right)):
                mapped = matrix @ corner
                np.testing.assert_allclose(found, mapped[:2] / mapped[2], atol=1e-4)


def card(network: str, transform: str | None) -> Card:
    return Card(network, (1, 28, 28), {"width": 2}, transform, {}, "mnist_e/x-seed_0", 1.2, 1.3, "")


def unpacked(path) -> bytes:
    (text,) = re.findall(r'^stnDraw\.packed\["[\w./-]+"\] = "(.*)";$', path.read_text())
    return gzip.decompress(base64.b64decode(text))


def test_the_page_offers_what_the_folder_holds_and_computes_what_pytorch_computes(tmp_path, script, digits):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights, runtime, out = tmp_path / "weights", tmp_path / "dist", tmp_path / "draw"
    network = st_cnn((1, 28, 28), transform=ThinPlateSpline(), width=2)
    save_weights(weights / "mnist_e" / "st_cnn-tps.safetensors", network, card("st_cnn", "ThinPlateSpline"))
    save_weights(weights / "mnist_r" / "cnn.safetensors", cnn((1, 28, 28), width=2), card("cnn", None))
    write_sums(weights)
    options = ("--weights", str(weights), "--runtime", str(runtime), "--out", str(out))
    code, _, said = script("draw_page.py", *options)
    assert code == 2 and "has no ort.wasm.min.js" in said
    runtime.mkdir()
    for name in (drawing.API, *drawing.RUNTIME.values()):
        (runtime / name).write_text(f"content of {name}")
    (out / "old").mkdir(parents=True)
    assert script("draw_page.py", *options)[0] == 0
    assert not (out / "old").exists()
    assert unpacked(out / "onnxruntime.wasm.js") == b"content of ort-wasm-simd-threaded.wasm"
    (column,) = json.loads((out / "columns.js").read_text().removeprefix("stnDraw.columns = ").rstrip(";\n"))
    assert (column["letter"], column["cnn"], column["bends"], column["size"]) == ("E", None, 32, [0.75, 1.0])
    (told,) = column["networks"]
    assert (told["title"], told["lattice"], told["error"]) == ("Thin plate spline", [4, 4], 1.3)
    session = onnxruntime.InferenceSession(unpacked(out / f"{told['file']}.js"))
    found = session.run(["logits", "warped"], {"images": digits[:1].numpy()})
    with torch.no_grad():
        logits, aux = network.half().float()(digits[:1])
    np.testing.assert_allclose(found[0], logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[1], aux["warped"][:, 0].numpy(), atol=1e-4)


def test_a_folder_without_transformers_is_refused(tmp_path):
    save_weights(tmp_path / "mnist_r" / "cnn.safetensors", cnn((1, 28, 28), width=2), card("cnn", None))
    write_sums(tmp_path)
    for name in (drawing.API, *drawing.RUNTIME.values()):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="there is nothing to draw for"):
        list(drawing.build_page(tmp_path, tmp_path, tmp_path / "draw"))
