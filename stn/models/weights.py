"""Trained networks of distorted MNIST as files: half precision, in the safetensors format, with what builds them again.

`pretrained` loads one of those that come with the repository, in its folder `weights/`. A file holds numbers and text
alone, so nothing in it can run as code. safetensors is imported on use.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stn.models.mnist import cnn, fcn, st_cnn, st_fcn
from stn.transforms import Affine, Attention, Projective, ThinPlateSpline, Transform, Translation

__all__ = [
    "FOLDER",
    "SUMS",
    "Card",
    "load_weights",
    "pretrained",
    "pretrained_names",
    "save_weights",
    "write_sums",
]

FOLDER = Path(__file__).resolve().parents[2] / "weights"
SUMS = "SHA256SUMS"  # in the folder, as `sha256sum` writes and checks it
NETWORKS: dict[str, Callable[..., nn.Module]] = {"fcn": fcn, "cnn": cnn, "st_fcn": st_fcn, "st_cnn": st_cnn}
TRANSFORMS: dict[str, type[Transform]] = {
    kind.__name__: kind for kind in (Affine, Attention, Projective, ThinPlateSpline, Translation)
}


@dataclass(frozen=True)
class Card:
    """What a file says of its network.

    Attributes:
        network: a function of `stn.models.mnist`.
        in_shape: (C, H, W) of its images, in [0, 1], white on black.
        arguments: further ones of the function, but for the transform.
        transform: a class of `stn.transforms`, None without transformer.
        transform_arguments: of that class.
        run: the published run, as results/runs/ names it.
        published_error: its error on its test set, %.
        test_error: the error of the network as this file gives it, in float32, on the same test set, %.
        test_fingerprint: sha256 of that test set.
    """

    network: str
    in_shape: tuple[int, int, int]
    arguments: dict[str, Any]
    transform: str | None
    transform_arguments: dict[str, Any]
    run: str
    published_error: float
    test_error: float
    test_fingerprint: str

    def build(self) -> nn.Module:
        """The network, untrained.

        Raises:
            ValueError: no such network or transform, or arguments that it does not take.
        """
        if self.network not in NETWORKS:
            raise ValueError(f"There is no network {self.network!r}: {', '.join(NETWORKS)}.")
        arguments = dict(self.arguments)
        try:
            if self.transform is not None:
                if self.transform not in TRANSFORMS:
                    raise ValueError(f"There is no transform {self.transform!r}: {', '.join(TRANSFORMS)}.")
                arguments["transform"] = TRANSFORMS[self.transform](**self.transform_arguments)
            make = NETWORKS[self.network]
            inspect.signature(make).bind(self.in_shape, **arguments)
            return make(self.in_shape, **arguments)
        except TypeError as error:
            raise ValueError(f"{self.network} cannot be built: {error}.") from error


def save_weights(path: str | Path, model: nn.Module, card: Card) -> None:
    """Writes a network, its floating-point numbers in half precision.

    Args:
        path: of the file, .safetensors.
        model: as `card` builds it.
        card: goes into the file.
    """
    from safetensors.torch import save_file

    state = {name: x.half() if x.is_floating_point() else x for name, x in model.state_dict().items()}
    state = {name: x.cpu().contiguous() for name, x in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"card": json.dumps(asdict(card))})


def load_weights(path: str | Path) -> tuple[Card, nn.Module]:
    """Reads a network that `save_weights` wrote.

    Args:
        path: of the file.

    Returns:
        The card, and the network in evaluation mode, float32 on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not of `save_weights`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {})["card"])
            card = Card(**{**fields, "in_shape": tuple(fields["in_shape"])})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model = card.build()
        model.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in state.items()})
    except (KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the weights of a network: {error}") from error
    return card, model.eval()


def pretrained_names(folder: str | Path = FOLDER) -> list[str]:
    """The networks that `pretrained` loads, such as "mnist_rts/st_cnn-affine".

    Args:
        folder: with SHA256SUMS.

    Raises:
        FileNotFoundError: the folder has no list, as where the package was installed without its checkout.
    """
    return sorted(_sums(Path(folder)))


def pretrained(name: str, *, folder: str | Path = FOLDER) -> nn.Module:
    """A network of a published run, trained by `trainer=fast` unless the name says another.

    Images are (B, 1, H, W) in [0, 1], white digits on black, of the side that the distortion has: 28 pixels for R, P
    and E, 42 for RTS, 60 for TC. weights/README.md lists names and errors.

    Args:
        name: one of `pretrained_names()`.
        folder: where the files and SHA256SUMS are.

    Returns:
        The network in evaluation mode, float32 on the CPU.

    Raises:
        FileNotFoundError: the folder has no list, as where the package was installed without its checkout.
        ValueError: there is no such name, or the file is damaged.

    Examples:
        >>> model = pretrained("mnist_rts/st_cnn-affine")
        >>> logits, aux = model(torch.rand(2, 1, 42, 42))
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 6]), torch.Size([2, 1, 1, 42, 42]))
    """
    folder = Path(folder)
    sums = _sums(folder)
    if name not in sums:
        raise ValueError(f"There are no weights {name!r}. There are: {', '.join(sorted(sums))}.")
    path = folder / f"{name}.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
        raise ValueError(f"{path} is not the file that {SUMS} lists: get it again.")
    return load_weights(path)[1]


def write_sums(folder: str | Path) -> None:
    """Lists the files of a folder in its SHA256SUMS, for `pretrained`.

    Args:
        folder: with <experiment>/<network>.safetensors.
    """
    folder = Path(folder)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*.safetensors"))
    ]
    (folder / SUMS).write_text("".join(lines))


def _sums(folder: Path) -> dict[str, str]:
    """Name -> sha256."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder / SUMS} does not exist: trained networks come with a checkout of the repository."
        ) from error
    return {
        path.removesuffix(".safetensors"): digest
        for digest, path in (line.split(maxsplit=1) for line in lines)
    }
