"""Networks pretrained on ImageNet, without pooling and classifier: torchvision's, or a weights file of one's own."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import Tensor, nn

from stn.files import load_tensors, resolve_data_dir

__all__ = ["Backbone"]

Scaling = tuple[
    tuple[float, float, float], tuple[float, float, float]
]  # mean and standard deviation, red green blue
SCALINGS: dict[str, Scaling] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # x * 2 - 1
}
PADDINGS = ("torch", "same")
NORMS = ("batch", "frozen")


@dataclass(frozen=True)
class Architecture:
    """One of torchvision's classifiers, and where its convolutional part ends.

    Attributes:
        make: torchvision's function.
        head: prefixes of the parameters of the classifier, which are left out.
        last: name of the last convolutional child. None: the child `features` is all of it.
        scaling: of the input, with which torchvision's weights were trained.
    """

    make: Callable[..., nn.Module]
    head: tuple[str, ...]
    last: str | None = None
    scaling: str = "imagenet"


ARCHITECTURES = {
    # Its weights come from another library; torchvision's own model turns the usual scaling back into x * 2 - 1.
    "googlenet": Architecture(zoo.googlenet, ("fc.", "aux"), "inception5b", "symmetric"),
    "mobilenet_v2": Architecture(zoo.mobilenet_v2, ("classifier.",)),
    "resnet18": Architecture(zoo.resnet18, ("fc.",), "layer4"),
    "resnet50": Architecture(zoo.resnet50, ("fc.",), "layer4"),
}
# sha256 of a weights file -> how its input is scaled and its strided convolutions are padded
KNOWN = {
    "63f7d75642e3bca254f08ad0f23cf63ec6a87d1073d4d7db5f42f570f00618fe": ("symmetric", "same"),
}


class Backbone(nn.Module):
    """The convolutional part of a torchvision classifier.

    Args:
        arch: `googlenet`, `mobilenet_v2`, `resnet18` or `resnet50`.
        weights: `default`, torchvision's ImageNet weights, which it downloads on first use; `none`, its initial values;
            or a file of a state dict with torchvision's names, of any precision, with or without the classifier. A
            name without a folder is looked for in data_dir/weights too.
        data_dir: as of `stn.files.resolve_data_dir`.
        scaling: of the input: `imagenet` (mean and deviation of each colour), `symmetric` (x * 2 - 1), or `auto`, as
            the weights were trained.
        padding: of 3x3 convolutions with stride 2: `torch`, one pixel on each side; `same`, TensorFlow's, which for
            images of even size is one pixel to the right and below; or `auto`, as the weights were trained.
        norm: of batch normalisation in training: `batch`, over the batch; or `frozen`, with the mean and variance of
            the weights, for batches too small to estimate them. Scale and shift are learnt either way.
        download: False where a checkpoint's weights follow: `default` is then not downloaded, and the initial values
            stand until they do.

    Shape:
        Images (B, 3, H, W) in [0, 1] -> (B, out_channels, ceil(H / 32), ceil(W / 32)).

    Attributes:
        out_channels: channels of the output.
        weights_sha256: of the weights file, None without one.

    Raises:
        ValueError: A choice is unknown, or the weights cannot be read or do not fit.
        FileNotFoundError: The weights are not there or cannot be downloaded.

    Examples:
        >>> backbone = Backbone("mobilenet_v2", weights="none")
        >>> backbone(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1280, 2, 2])
    """

    def __init__(
        self,
        arch: str,
        *,
        weights: str | Path = "default",
        data_dir: str | Path | None = None,
        scaling: str = "auto",
        padding: str = "auto",
        norm: str = "batch",
        download: bool = True,
    ) -> None:
        super().__init__()
        for key, value, valid in (
            ("arch", arch, tuple(ARCHITECTURES)),
            ("scaling", scaling, ("auto", *SCALINGS)),
            ("padding", padding, ("auto", *PADDINGS)),
            ("norm", norm, NORMS),
        ):
            if value not in valid:
                raise ValueError(f"backbone.{key}={value} is not valid: choose one of {', '.join(valid)}.")
        architecture = ARCHITECTURES[arch]
        own_scaling, own_padding = architecture.scaling, "torch"
        state: dict[str, Tensor] | None = None
        self.weights_sha256: str | None = None
        if str(weights) == "default":
            state = _download(arch) if download else None
        elif str(weights) != "none":
            path = _find(Path(weights), resolve_data_dir(data_dir))
            state, self.weights_sha256 = _read(path), hashlib.sha256(path.read_bytes()).hexdigest()
            own_scaling, own_padding = KNOWN.get(self.weights_sha256, (own_scaling, own_padding))
        options = {"init_weights": state is None, "aux_logits": False} if arch == "googlenet" else {}
        network = architecture.make(weights=None, **options)
        if state is not None:
            _load(network, state, architecture.head, f"backbone.weights={weights}", arch)
        self.features = _convolutional(network, architecture.last)
        if (own_padding if padding == "auto" else padding) == "same":
            _pad_as_tensorflow(self.features)
        mean, deviation = SCALINGS[own_scaling if scaling == "auto" else scaling]
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))
        with torch.no_grad():
            self.out_channels = int(self.features.eval()(torch.zeros(1, 3, 64, 64)).shape[1])
        self.norm = norm
        self.train()

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        return self.features((image - self.mean) / self.deviation)


class SamePadding(nn.Module):
    """TensorFlow's SAME padding for a square kernel and stride: an odd pixel goes to the right and below.

    Args:
        kernel: side of the kernel, pixels.
        stride: pixels.

    Shape:
        (B, C, H, W) -> padded for an output of (ceil(H / stride), ceil(W / stride)).

    Examples:
        >>> SamePadding(3, 2)(torch.ones(1, 1, 2, 2)).tolist()
        [[[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)


class SameDepthwise(nn.Sequential):
    """`SamePadding` and a depthwise 3x3 convolution of stride 2.

    On a CPU it is computed at stride 1 and every other pixel is kept. The numbers are the same, and in bfloat16 the
    backward pass is several times as fast as that of the strided convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        conv = self[1]
        assert isinstance(conv, nn.Conv2d)
        whole = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=conv.groups)
        return whole[:, :, 1 - x.shape[2] % 2 :: 2, 1 - x.shape[3] % 2 :: 2]


def _convolutional(network: nn.Module, last: str | None) -> nn.Sequential:
    if last is None:
        features = network.features
        assert isinstance(features, nn.Sequential)
        return features
    kept = nn.Sequential()
    for name, child in network.named_children():
        kept.add_module(name, child)
        if name == last:
            break
    return kept


def _pad_as_tensorflow(features: nn.Module) -> None:
    for module in list(features.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2) and child.kernel_size == (3, 3):
                child.padding = (0, 0)
                kind = nn.Sequential if child.groups == 1 else SameDepthwise
                setattr(module, name, kind(SamePadding(3, 2), child))


def _download(arch: str) -> dict[str, Tensor]:
    enum = zoo.get_model_weights(arch).DEFAULT
    try:
        return dict(enum.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"torchvision could not fetch its weights for {arch} ({' '.join(str(error).split())}): download {enum.url} "
            "elsewhere and give backbone.weights=FILE, or train from scratch with backbone.weights=none."
        ) from error


def _find(weights: Path, data_dir: Path) -> Path:
    places = [weights.expanduser(), *([data_dir / "weights" / weights] if weights.parent == Path() else [])]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"backbone.weights={weights} is not there; looked at {' and '.join(str(p) for p in places)}. "
        "Choose default, none, or a file of a state dict."
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise ValueError(f"backbone.weights={error} Give a file of a state dict.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone.weights={path} holds no state dict, name -> tensor.")
    return state


def _load(network: nn.Module, state: dict[str, Tensor], head: tuple[str, ...], what: str, arch: str) -> None:
    """Loads all but the head. ValueError that names what is missing, unknown or of another shape."""

    def body(names: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in names.items() if not name.startswith(head)}

    wanted, given = body(network.state_dict()), body(state)
    problems = [
        (label, names)
        for label, names in (
            ("missing", sorted(wanted.keys() - given.keys())),
            ("not known", sorted(given.keys() - wanted.keys())),
            (
                "of another shape",
                sorted(n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape),
            ),
        )
        if names
    ]
    if problems:
        listed = "; ".join(
            f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for label, names in problems
        )
        raise ValueError(f"{what} does not fit {arch}: {listed}. Choose the backbone that it is of.")
    network.load_state_dict(
        {n: v.float() if v.is_floating_point() else v for n, v in given.items()}, strict=False
    )
