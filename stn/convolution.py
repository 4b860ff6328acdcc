"""A convolution with a fast input gradient: behind a spatial transformer, the slowest part of a step on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stn.eager import is_eager

__all__ = ["Conv2d", "plain_operations"]

MAX_CHANNELS = 4  # of the input, up to which the band's product is faster than PyTorch's own input gradient
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


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d with a faster gradient in an input of one to four channels on the CPU.

    Parameters and arguments are those of torch.nn.Conv2d, and the result is the same up to rounding. Behind a spatial
    transformer the first convolution needs the gradient in its input; for one channel and a 9x9 kernel PyTorch's own
    takes most of that layer's time on a CPU (`scripts/benchmark.py tricks` measures it). The fast gradient can be
    differentiated once. In all other cases, within `plain_operations`, and where the module is compiled, exported or
    transformed, PyTorch's is used.

    Examples:
        >>> image = torch.rand(2, 1, 28, 28, requires_grad=True)
        >>> layer = Conv2d(1, 4, 9)
        >>> layer(image).sum().backward()
        >>> layer(image).shape, image.grad.shape
        (torch.Size([2, 4, 20, 20]), torch.Size([2, 1, 28, 28]))
    """

    def forward(self, input: Tensor) -> Tensor:
        tile = self._tile(input)
        if tile is None:
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return _BandGradient.apply(input.to(dtype), self.weight.to(dtype), bias, tile)

    def _tile(self, image: Tensor) -> int | None:
        """The number of outputs of a row that one band gives, or None where PyTorch's own gradient is used."""
        if not is_eager(image):
            return None
        usual = (self.stride, self.padding, self.dilation, self.groups) == ((1, 1), (0, 0), (1, 1), 1)
        if not (image.requires_grad and torch.is_grad_enabled() and image.device.type == "cpu"):
            return None
        if not usual or self.in_channels > MAX_CHANNELS or image.ndim != 4 or _plain.get():
            return None
        kernel, outputs = self.kernel_size[1], image.shape[-1] - self.kernel_size[1] + 1
        # A band computes (tile + kernel - 1) / kernel times what is needed, so tiles are small; they divide the row.
        tile = next((t for t in range(4, outputs + 1) if outputs % t == 0), outputs)
        return tile if 0 < tile <= 4 * kernel else None


class _BandGradient(torch.autograd.Function):
    """F.conv2d whose input gradient is one matrix product with the kernel as a band matrix, and shifted sums."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.bias_sizes, ctx.tile = None if bias is None else list(bias.shape), tile
        return F.conv2d(image, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        wanted = [False, ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        _, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
            grad, image, weight, ctx.bias_sizes, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
        )
        return _input_gradient(grad, weight, ctx.tile), weight_grad, bias_grad, None


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
