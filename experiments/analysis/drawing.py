"""The drawing page of the site: networks and training distortions as ONNX files, packed with onnxruntime-web.

The page opens from disk. There a browser runs scripts, but reads no other file, so each file is packed into a script
that hands over its content, gzip in base64. docs/draw/ has the page's own scripts.
"""

import base64
import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.analysis.export import export_module
from experiments.analysis.predict import DIGIT
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.files import write_atomically
from experiments.sections.distorted_mnist import TABLE1
from experiments.sections.figures.drawing import lattice
from stn.datasets.digits import load_digits
from stn.datasets.distortions import warp_affine, warp_quad
from stn.models.weights import TRANSFORMS, Card, load_weights, pretrained_names
from stn.sampler import sample
from stn.transforms import ThinPlateSpline, Transform, pose

COLUMNS = {
    "mnist_r": "rotated",
    "mnist_rts": "rotated, scaled, shifted",
    "mnist_p": "projective",
    "mnist_e": "elastic",
}
TITLES = {"affine": "Affine", "projective": "Projective", "tps": "Thin plate spline"}
DIGITS = 20  # on which files are compared with what they were made of
RUNTIME = {  # of onnxruntime-web: the smallest build, WebAssembly on the CPU alone
    "onnxruntime.mjs": "ort-wasm-simd-threaded.mjs",
    "onnxruntime.wasm": "ort-wasm-simd-threaded.wasm",
}
API = "ort.wasm.min.js"


class Shown(nn.Module):
    """A network with all that the page shows of it.

    Args:
        network: of `stn.models.mnist`, with one transformer or none.

    Shape:
        images (B, 1, H, W) -> a dictionary: `logits` (B, 10); with a transformer `theta` (B, P), `warped` (B, 1, h, w),
        `window` (B, lines, points, 2), the lines of `outline` in the input, (x, y) from -1 to 1 between its outer
        edges, and `pose` (B, 4): angle in degrees, scale, x and y of the window, as of `stn.transforms.pose`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.transform: Transform | None = None
        transformers = getattr(network, "transformers", None)
        if transformers is not None:
            self.transform = transformers.transform
            self.register_buffer("lines", lattice(self.transform), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits, aux = self.network(images)
        if self.transform is None:
            return {"logits": logits}
        theta, warped = aux["theta"].flatten(1), aux["warped"].flatten(1, 2)
        lines: Tensor = self.get_buffer("lines")
        window = self.transform.map_points(theta, lines.flatten(0, 1)).unflatten(1, lines.shape[:2])
        found = torch.stack(list(pose(self.transform, theta).values()), 1)
        return {"logits": logits, "theta": theta, "warped": warped, "window": window, "pose": found}


class Distortion(nn.Module):
    """A training distortion, with its random numbers as inputs.

    R and RTS are one affine warp. P and E bend the digit after it is turned and shifted, which their training does not
    do: with angle, x and y of 0 they are that of the training.

    Args:
        distort: `dataset.distort` of the experiment.

    Shape:
        images (B, 1, 28, 28), pose (B, 4): angle in degrees, size, x and y in pixels; and for P and E bend (B, bends):
        the shift (x, y) of each corner or point, in pixels -> a dictionary: `image` (B, 1, side, side).

    Raises:
        UserError: the page knows no such distortion.
    """

    def __init__(self, distort: DictConfig) -> None:
        super().__init__()
        self.kind = distort._target_.rpartition(".")[2]
        self.side = distort.get("canvas", DIGIT)
        self.bends = {"rotate": 0, "rotate_translate_scale": 0, "project": 8, "elastic": 32}.get(
            self.kind, -1
        )
        if self.bends < 0 or distort.get("corners", "digit") != "digit":
            raise UserError(f"The drawing page does not know the distortion {dict(distort)}.")
        if self.kind == "project":
            square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
            self.register_buffer("square", square, persistent=False)
        elif self.kind == "elastic":
            self.spline = ThinPlateSpline((4, 4), reach=distort.reach)

    def forward(self, images: Tensor, pose: Tensor, bend: Tensor | None = None) -> dict[str, Tensor]:
        angle, size, x, y = pose.unbind(1)
        if bend is None:
            return {"image": warp_affine(images, self.side, angle, size, x, y)}
        # What follows scales about the centre, and with it this shift.
        turned = warp_affine(images, self.side, angle, torch.ones_like(size), x / size, y / size)
        shift = bend * (2 / self.side)
        if self.kind == "project":
            corners = self.get_buffer("square") * size[:, None, None] + shift.unflatten(1, (4, 2))
            return {"image": warp_quad(turned, corners)}
        theta = (self.spline.identity() + shift) / size[:, None]
        return {"image": sample(turned, self.spline.grid(theta, (self.side, self.side)))}


def build_page(weights: Path, runtime: Path, out: Path) -> Iterable[str]:
    """Writes what the page needs besides its own scripts: the networks of a folder, the distortions, the runtime.

    Args:
        weights: the folder of `stn.models.pretrained`. Its ST-CNNs and CNNs on R, RTS, P and E are offered.
        runtime: dist/ of the npm package onnxruntime-web.
        out: the folder; what was in it is lost.

    Yields:
        A line for each network.

    Raises:
        UserError: the runtime or onnxruntime is missing, or a file does not compute what it was made of.
    """
    missing = [name for name in (API, *RUNTIME.values()) if not (runtime / name).is_file()]
    if missing:
        raise UserError(
            f"{runtime} has no {', '.join(missing)}: give dist/ of the npm package onnxruntime-web."
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(runtime / API, out / API)
    for name, file in RUNTIME.items():
        _pack(name, runtime / file, out)
    columns = []
    names = pretrained_names(weights)
    for experiment in COLUMNS:
        ours = [name for name in names if name.startswith(f"{experiment}/")]
        loaded = {name: load_weights(weights / f"{name}.safetensors") for name in ours}
        column = describe({name: card for name, (card, _) in loaded.items()}, experiment)
        if not column["networks"]:
            continue
        distortion = Distortion(configuration([f"experiment={experiment}"]).dataset.distort).eval()
        digits = load_digits().test_images[:DIGITS].float() / 255
        inputs = {"images": digits, "pose": torch.tensor([[20.0, 0.9, 1.0, -1.0]]).repeat(DIGITS, 1)}
        if distortion.bends:
            inputs["bend"] = torch.linspace(-2, 2, distortion.bends).repeat(DIGITS, 1)
        yield _export(distortion, inputs, f"{experiment}/distortion", out)
        images = {"images": distortion(*inputs.values())["image"]}
        for one in [*column["networks"], *([column["cnn"]] if column["cnn"] else [])]:
            yield _export(Shown(loaded[one["file"]][1]).eval(), images, one["file"], out)
        columns.append(column)
    if not columns:
        raise UserError(f"{weights} has no ST-CNN of {', '.join(COLUMNS)}: there is nothing to draw for.")
    script = f"stnDraw.columns = {json.dumps(columns, indent=1)};\n"
    write_atomically(out / "columns.js", lambda path: path.write_text(script))


def describe(cards: dict[str, Card], experiment: str) -> dict[str, Any]:
    """What the page says of a column: its networks, its distortion, and the range of the training.

    Args:
        cards: name -> card, of the column alone.
        experiment: mnist_r, mnist_rts, mnist_p or mnist_e.

    Returns:
        For the manifest.
    """
    distort = configuration([f"experiment={experiment}"]).dataset.distort
    angle, middle = distort.get("max_angle", 0.0), distort.get("middle", 0.0)
    shown = {}
    for name, card in cards.items():
        kind = name.partition("/")[2]
        told = {"file": name, "error": card.test_error, "run": card.run}
        if card.network == "st_cnn" and card.transform and kind.startswith("st_cnn-"):
            key = kind.removeprefix("st_cnn-")
            transform = TRANSFORMS[card.transform](**card.transform_arguments)
            rows_and_columns = getattr(transform, "shape", (2, 2))
            shown[key] = {"name": key, "title": TITLES.get(key, key), "lattice": rows_and_columns, **told}
        elif kind == "cnn":
            shown["cnn"] = told
    order = [*TITLES, *sorted(shown.keys() - TITLES.keys() - {"cnn"})]
    distortion = Distortion(distort)
    return {
        "experiment": experiment,
        "letter": TABLE1.columns[experiment],
        "title": COLUMNS[experiment],
        "side": distortion.side,
        "angle": [middle - angle, middle + angle],
        "size": list(distort.get("scale", [1.0, 1.0])),
        "shifted": "canvas" in distort,  # as far as the scaled digit's box stays on the canvas
        "bends": distortion.bends,
        "std": distort.get("std", 0.0),
        "networks": [shown[key] for key in order if key in shown],
        "cnn": shown.get("cnn"),
    }


def _export(module: nn.Module, inputs: dict[str, Tensor], name: str, out: Path) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        _, difference = export_module(module, inputs, path)
        if difference is None:
            raise UserError("The drawing page needs onnxruntime: pip install -e '.[export]'.")
        _pack(name, path, out)
    return f"{name}: within {difference:.1e} of PyTorch on {len(inputs['images'])} digits"


def _pack(name: str, path: Path, out: Path) -> None:
    packed = base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
    script = f'stnDraw.packed["{name}"] = "{packed}";\n'
    write_atomically(out / f"{name}.js", lambda temporary: temporary.write_text(script))
