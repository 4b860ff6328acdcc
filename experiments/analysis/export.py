"""A trained network as a file for other programs: ONNX, or a program of torch.export."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.engine.build import UserError
from experiments.engine.run import load_run

ENDINGS = (".onnx", ".pt2")
IMAGES = 4  # test images on which a file is compared with the network
TOLERANCE = 1e-3  # of a difference, as a share of the largest number of an output, or of 1
Run = Callable[..., Sequence[Tensor]]


class NamedOutputs(nn.Module):
    """A network whose outputs are a dictionary: its own output by a given name, then those of aux.

    Args:
        network: images -> (output, aux).
        name: of the output.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        output, aux = self.network(images)
        return {self.name: output, **aux}


def export_run(run: Path, out: Path, arguments: Mapping[str, Any]) -> str:
    """Writes the network of a run into one file, and compares it with the network on a few test images.

    The input is `images`, of any batch size. The outputs are `logits`, or `boxes` of a localiser, and with transformers
    `theta` and `warped`. The file is put in its place only when the comparison, in onnxruntime for ONNX, has passed.

    Args:
        run: the run directory.
        out: the file: .onnx, or .pt2 for torch.export.
        arguments: what the stored configuration leaves out, as of `load_run`.

    Returns:
        A sentence: what was written, with which outputs, and how close it is.

    Raises:
        UserError: the ending is another, a package is missing, the run has not trained, or the outputs differ.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"--out {out} is not valid: the ending is one of {', '.join(ENDINGS)}.")
    if out.suffix == ".onnx" and not (_installed("onnx") and _installed("onnxscript")):
        raise UserError(
            "ONNX files need onnx and onnxscript: pip install -e '.[export]', or choose --out NAME.pt2."
        )
    data, network, _ = load_run(run, arguments)
    model = NamedOutputs(network, "boxes" if data.num_classes is None else "logits").eval()
    images = next(iter(data.test.batches(IMAGES)))[0]
    outputs, difference = export_module(model, {"images": images}, out)
    close = "not compared with the network, since onnxruntime is not installed"
    if difference is not None:
        close = f"within {difference:.1e} of the network on {len(images)} test images"
    shape = ", ".join(["batch", *map(str, images.shape[1:])])
    return f"{out}: images ({shape}) -> {', '.join(outputs)}; {close}."


def export_module(
    model: nn.Module, inputs: Mapping[str, Tensor], out: Path
) -> tuple[list[str], float | None]:
    """Writes a module into one file, which is put in its place when it has computed what the module computes.

    Args:
        model: in evaluation mode; tensors -> a dictionary of tensors. The first axis of all is the batch.
        inputs: what the file is compared on: the arguments of `forward`, by name and in their order.
        out: the file: .onnx, or .pt2 for torch.export.

    Returns:
        The names of the outputs, and the largest difference as a share of the largest number of an output, or of 1;
        None instead where onnxruntime is not installed.

    Raises:
        UserError: the outputs differ.
    """
    with torch.no_grad():
        expected = model(*inputs.values())
    # Traced with two images: for a single one, torch.export would fix the batch size.
    example = tuple(one[:1].repeat(2, *(1 for _ in one.shape[1:])) for one in inputs.values())
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, example, dynamic_shapes={name: {0: batch} for name in inputs})
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}.part{out.suffix}")
    difference = None
    try:
        if out.suffix == ".onnx":
            found = _onnx(program, part, list(inputs), list(expected))
        else:
            found = _pt2(program, part, list(expected))
        if found is not None:
            with torch.no_grad():
                difference = _difference(found(*inputs.values()), expected)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return list(expected), difference


def _onnx(
    program: torch.export.ExportedProgram, path: Path, inputs: list[str], outputs: list[str]
) -> Run | None:
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=inputs,
        output_names=outputs,
        # The name, which all inputs share; that they are dynamic, the program knows.
        dynamic_shapes={name: {0: "batch"} if name == inputs[0] else None for name in inputs},
    )
    if not _installed("onnxruntime"):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> list[Tensor]:
        feeds = {name: one.numpy() for name, one in zip(inputs, tensors, strict=True)}
        return [torch.as_tensor(one) for one in session.run(outputs, feeds)]

    return run


def _pt2(program: torch.export.ExportedProgram, path: Path, outputs: list[str]) -> Run:
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda *tensors: [loaded(*tensors)[name] for name in outputs]


def _difference(found: Sequence[Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of all outputs, as a share of the output's largest number, or of 1.

    Raises:
        UserError: it is too large.
    """
    largest = 0.0
    for one, (name, other) in zip(found, expected.items(), strict=True):
        difference = float((one - other).abs().max() / max(1.0, float(other.abs().max())))
        if not difference <= TOLERANCE:
            raise UserError(
                f"The exported network differs from the trained one in {name} by {difference:.1e}: nothing is written."
            )
        largest = max(largest, difference)
    return largest


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
