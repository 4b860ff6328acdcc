"""A convolution with fast gradients, the slowest part of a step on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stn.eager import is_eager

__all__ = ["Conv2d", "plain_operations"]

MAX_CHANNELS = 4  # of the input, up to which the band's product is faster than PyTorch's own input gradient
MAX_OUTPUTS = 4  # of a row, up to which it is so for any number of channels, where `multiplies_tiles`
PATCHES = 1 << 23  # numbers in the patches of one product, so that they stay in the cache
TILED = torch.bfloat16  # the dtype of such tiles
_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """A context in which `Conv2d` is PyTorch's own in every case, to compare the fast gradient with.

    Yields:
        Nothing.

    Examples:
        >>> with plain_operations():
        ...     out = Conv2d(1, 2, 9)(torch.rand(1, 1, 28, 28, requires_grad=True))
        >>> type(out.grad_fn).__name__
        'ConvolutionBackward0'
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@cache
def multiplies_tiles() -> bool:
    """Whether this CPU multiplies whole tiles of bfloat16 matrices (Intel AMX).

    PyTorch's gradients of a convolution gain far less by it than matrix products do.

    Returns:
        False where torch cannot tell.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


class _Plan(NamedTuple):
    """How gradients are made: outputs of a row that one band gives, and which gradients are products with bands."""

    tile: int
    of_image: bool
    of_weight: bool


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d with faster gradients on the CPU, as products with the kernel laid out as a band matrix.

    Parameters and arguments are those of torch.nn.Conv2d, and the result is the same up to rounding. Behind a spatial
    transformer the first convolution needs the gradient in its input; for one channel and a 9x9 kernel PyTorch's own
    takes most of that layer's time on a CPU. Bands make that gradient for inputs of one to four channels. In bfloat16
    on a CPU that `multiplies_tiles` they make the gradient in the kernel too, and both for any number of channels where
    a row has at most four outputs (`scripts/benchmark.py tricks` measures it). The fast gradients can be differentiated
    once. In all other cases, within `plain_operations`, and where the module is compiled, exported or transformed,
    PyTorch's are used.

    Examples:
        >>> image = torch.rand(2, 1, 28, 28, requires_grad=True)
        >>> layer = Conv2d(1, 4, 9)
        >>> layer(image).sum().backward()
        >>> layer(image).shape, image.grad.shape
        (torch.Size([2, 4, 20, 20]), torch.Size([2, 1, 28, 28]))
    """

    def forward(self, input: Tensor) -> Tensor:
        autocast, dtypes = torch.is_autocast_enabled("cpu"), {input.dtype, self.weight.dtype}
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        mixed = torch.float64 in dtypes if autocast else len(dtypes) > 1  # autocast leaves float64 as it is
        plan = None if mixed else self._plan(input, dtype)
        if plan is None:
            return super().forward(input)
        return _BandGradient.apply(input.to(dtype), self.weight, self.bias, plan)

    def _plan(self, image: Tensor, dtype: torch.dtype) -> _Plan | None:
        """How the gradients of a result of this dtype are made; None: by PyTorch alone."""
        if not is_eager(image) or _plain.get():
            return None
        usual = (self.stride, self.padding, self.dilation, self.groups) == ((1, 1), (0, 0), (1, 1), 1)
        if not usual or not torch.is_grad_enabled() or image.device.type != "cpu" or image.ndim != 4:
            return None
        kernel, outputs = self.kernel_size[1], image.shape[-1] - self.kernel_size[1] + 1
        # A band computes (tile + kernel - 1) / kernel times what is needed, so tiles are small; they divide the row.
        tile = next((t for t in range(4, outputs + 1) if outputs % t == 0), outputs)
        if not 0 < tile <= 4 * kernel:
            return None
        tiles = dtype == TILED and multiplies_tiles()
        few, narrow = self.in_channels <= MAX_CHANNELS, outputs <= MAX_OUTPUTS
        of_image = image.requires_grad and (few or (narrow and tiles))
        of_weight = self.weight.requires_grad and (few or narrow) and tiles
        return _Plan(tile, of_image, of_weight) if of_image or of_weight else None


class _BandGradient(torch.autograd.Function):
    """F.conv2d in the image's dtype, with gradients that are matrix products with bands, as far as a plan says."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
        kernel = weight.to(image.dtype)
        ctx.save_for_backward(image, kernel)
        ctx.plan, ctx.parameters = plan, weight.dtype
        return F.conv2d(image, kernel, None if bias is None else bias.to(image.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        plan = ctx.plan
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        rest = [
            of_image and not plan.of_image,
            of_weight and not plan.of_weight,
            of_bias and not plan.of_weight,
        ]
        image_grad = weight_grad = bias_grad = None
        if any(rest):
            image_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
                grad, image, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, rest
            )
        if of_image and plan.of_image:
            image_grad = _input_gradient(grad, weight, plan.tile)
        if of_weight and plan.of_weight:
            weight_grad = _weight_gradient(grad, image, weight.shape[2:], plan.tile)
        if of_bias and plan.of_weight:
            bias_grad = _bias_gradient(grad)
        of_parameters = [one if one is None else one.to(ctx.parameters) for one in (weight_grad, bias_grad)]
        return image_grad, of_parameters[0], of_parameters[1], None


def _bias_gradient(grad: Tensor) -> Tensor:
    """grad (B, F, Ho, Wo) -> (F,). A product with ones is faster than a sum."""
    rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    return (rows.new_ones(1, len(rows)) @ rows)[0]


def _weight_gradient(grad: Tensor, image: Tensor, kernel: torch.Size, tile: int) -> Tensor:
    """grad (B, F, Ho, Wo), Wo a multiple of `tile`; image (B, C, H, W) -> (F, C, kh, kw), float32 at least."""
    batch, filters, ho, wo = grad.shape
    channels, (kh, kw), columns = image.shape[1], kernel, tile + kernel[1] - 1
    pixels = image.permute(0, 2, 3, 1).contiguous()
    b, y, x, c = pixels.stride()
    patches = pixels.as_strided((batch, ho, wo // tile, kh, columns, channels), (b, y, tile * x, y, x, c))
    upstream = grad.permute(0, 2, 3, 1)
    # The gradient of the band (tile * F, kh * columns * C), in float32: bfloat16 would round every partial sum.
    wide = torch.promote_types(grad.dtype, torch.float32)
    total = torch.zeros((), dtype=wide)
    for part in range(0, batch, step := max(PATCHES // max(patches[0].numel(), 1), 1)):
        rows = patches[part : part + step].reshape(-1, kh * columns * channels)
        total = total + (upstream[part : part + step].reshape(-1, tile * filters).T @ rows).to(wide)
    # Each entry of the kernel stands on a diagonal of the band, `tile` times.
    band = total.view(tile, filters, kh, columns, channels)
    o, f, y, x, c = band.stride()
    return band.as_strided((tile, filters, kh, kw, channels), (o + x, f, y, x, c)).sum(0).permute(0, 3, 1, 2)


def _input_gradient(grad: Tensor, weight: Tensor, tile: int) -> Tensor:
    """grad (B, F, Ho, Wo), Wo a multiple of `tile`; weight (F, C, kh, kw) -> (B, C, H, W)."""
    batch, filters, ho, wo = grad.shape
    _, channels, kh, kw = weight.shape
    tiles, columns = wo // tile, tile + kw - 1  # one tile of a row's outputs sees `columns` input columns
    # For each image row and tile, (outputs x filters) times the band gives the kh rows of columns they depend on.
    product = grad.permute(0, 2, 3, 1).reshape(-1, tile * filters) @ _band(weight, tile)
    parts = product.view(batch, ho, tiles, kh, columns, channels)
    # The rows and columns overlap and are summed, in float32: bfloat16 would round every partial sum.
    total = grad.new_zeros(
        batch, ho + kh - 1, wo + kw - 1, channels, dtype=torch.promote_types(grad.dtype, torch.float32)
    )
    for y in range(kh):
        for i in range(tiles):
            total[:, y : y + ho, i * tile : i * tile + columns] += parts[:, :, i, y]
    return total.permute(0, 3, 1, 2).to(grad.dtype)


def _band(weight: Tensor, tile: int) -> Tensor:
    """The kernel (F, C, kh, kw) as a matrix (tile * F, kh * (tile + kw - 1) * C).

    Entry [(o, f), (y, x, c)] is weight[f, c, y, x - o], or 0 where x - o is outside of the kernel.
    """
    filters, channels, kh, kw = weight.shape
    band = weight.new_zeros(tile, filters, kh, tile + kw - 1, channels)
    o, f, y, x, c = band.stride()
    diagonals = band.as_strided((tile, filters, kh, kw, channels), (o + x, f, y, x, c))
    diagonals.copy_(weight.permute(0, 2, 3, 1))
    return band.view(tile * filters, -1)
