"""Transforms: from parameters theta to source coordinates (paper section 3.2).

Convention, everywhere in this package: points are in (x, y) order, x to the right and y down. Both frames run from -1
to 1 between the outer *edges* of the corner pixels (`align_corners=False`); the centres of an axis of n pixels lie
at (2 i + 1) / n - 1. theta maps **target to source**: for each output pixel it gives the place in the input that the
pixel comes from. In volumes z is the third coordinate, along the depth: points (x, y, z) of tensors (D, H, W).

A new transform is one class here with `num_params`, `identity` and `map_points`, and one YAML in configs/transform.
Where the maps of the family compose, it has `compose` too.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.eager import cached

__all__ = [
    "Affine",
    "Affine3d",
    "Attention",
    "Projective",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "homogeneous_grid",
    "pose",
    "regular_grid",
]


def regular_grid(
    size: tuple[int, ...], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The pixel centres of an image, from -1 to 1 between its outer edges. Cached: never write into the result.

    Args:
        size: (H, W), or (D, H, W) for a volume.
        device: of the result.
        dtype: of the result.

    Returns:
        (H, W, 2) in (x, y) order, or (D, H, W, 3) in (x, y, z).

    Examples:
        >>> regular_grid((1, 2)).tolist()
        [[[-0.5, 0.0], [0.5, 0.0]]]
    """
    # By way of a tensor: "cuda" becomes the GPU of the moment, which the cache must tell from the others.
    return _regular_grid(tuple(size), torch.empty(0, device=device).device, dtype)


@cached
def _regular_grid(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    axes = [(torch.arange(n, device=device, dtype=dtype) * 2 + 1) / n - 1 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)


@cached
def homogeneous_grid(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The pixel centres as homogeneous columns (x, y, 1). Cached: never write into the result.

    Args:
        size: (H, W), or (D, H, W) for a volume.
        device: of the result.
        dtype: of the result.

    Returns:
        (3, H * W), or (4, D * H * W) for a volume.

    Examples:
        >>> homogeneous_grid((1, 2), torch.device("cpu"), torch.float32).tolist()
        [[-0.5, 0.5], [0.0, 0.0], [1.0, 1.0]]
    """
    points = regular_grid(size, device, dtype).reshape(-1, len(size)).T
    return torch.cat([points, torch.ones_like(points[:1])]).contiguous()


def _in_float(theta: Tensor) -> Tensor:
    """theta in at least float32: half precision would be off by 0.4 px at 224 (autocast included)."""
    return theta if theta.dtype == torch.float64 else theta.float()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of small matrices (B, n, m) and (B, m, k). Not `@`, which autocast would compute in bfloat16."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def _compose_affine(outer: Tensor, inner: Tensor, dims: int) -> Tensor:
    """The rows of [[A, t]] for outer(inner(p)), all (B, dims * (dims + 1))."""
    outer, inner = (theta.unflatten(1, (dims, dims + 1)) for theta in (outer, inner))
    linear, shift = outer[:, :, :dims], outer[:, :, dims:]
    return (_product(linear, inner) + F.pad(shift, (dims, 0))).flatten(1)


class Transform(nn.Module):
    """The base class of transforms. A subclass has `num_params`, `identity`, `map_points`, and `compose` if it can.

    Attributes:
        num_params: P, the number of parameters theta.
        dims: 2 for images, 3 for volumes.

    Examples:
        >>> class Mirror(Transform):
        ...     num_params = 1
        ...     def identity(self):
        ...         return torch.ones(1)
        ...     def map_points(self, theta, points):
        ...         return torch.stack([theta * points[:, 0], points[:, 1].expand_as(theta * points[:, 0])], -1)
        >>> Mirror().grid(torch.tensor([[-1.0]]), (1, 2)).tolist()
        [[[[0.5, 0.0], [-0.5, 0.0]]]]
    """

    num_params: int
    dims: int = 2

    def identity(self) -> Tensor:
        """The parameters that change nothing.

        Returns:
            (num_params,), float32.

        Raises:
            NotImplementedError: The subclass lacks it.
        """
        raise NotImplementedError

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        """Source coordinates of target points.

        Args:
            theta: (B, num_params), float32 or float64.
            points: (N, dims), from -1 to 1 between the outer edges.

        Returns:
            (B, N, dims).

        Raises:
            NotImplementedError: The subclass lacks it.
        """
        raise NotImplementedError

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        """The parameters of one map that does what two do, one after the other: p -> outer(inner(p)).

        An image that is warped by `outer`, and what comes of it by `inner`, is the image warped by the composed map,
        but for the second interpolation.

        Args:
            outer: (B, num_params).
            inner: (B, num_params).

        Returns:
            (B, num_params).

        Raises:
            ValueError: Two maps of the family, one after the other, are not in general a map of the family.
        """
        raise ValueError(
            f"Two maps of {type(self).__name__} do not compose to one of its kind: choose Affine, Affine3d, Attention, "
            "Projective, or Translation with scale 1."
        )

    def grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        """Source coordinates of every output pixel: the sampling grid T_theta(G) (paper eq. 1).

        On a GPU, leave `torch.set_float32_matmul_precision` at its default, "highest". TF32 rounds to 11 significant
        bits, up to a twentieth of a pixel at 224. This has not been run on a GPU.

        Args:
            theta: (B, num_params).
            size: (H, W) of the output, or (D, H, W) for a transform of volumes.

        Returns:
            (B, H, W, 2) or (B, D, H, W, 3): float64 for a float64 theta, else float32, under autocast too.

        Raises:
            ValueError: theta has another shape, or `size` another number of axes.
        """
        # A traced number of axes is no number, and comparing it would warn.
        if theta.ndim != 2 or (not torch.jit.is_tracing() and theta.shape[1] != self.num_params):
            raise ValueError(
                f"{type(self).__name__} takes theta of shape (batch, {self.num_params}), not {tuple(theta.shape)}."
            )
        if len(size) != self.dims:
            raise ValueError(
                f"{type(self).__name__} makes grids of {self.dims} axes, not of size {tuple(size)}."
            )
        with torch.autocast(theta.device.type, enabled=False):
            theta = _in_float(theta)
            return self._map_grid(theta, tuple(size)).unflatten(1, tuple(size))

    def _map_grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        """map_points at the pixel centres, (B, H * W, 2). A subclass may have a faster way.

        The faster ways below are one product for the whole batch, laid out by coordinate: (B, 2, H * W), seen as
        (B, H * W, 2). A batch of small products is several times slower, and the sampler takes either layout.
        """
        return self.map_points(theta, regular_grid(size, theta.device, theta.dtype).reshape(-1, self.dims))

    def extra_repr(self) -> str:
        return f"num_params={self.num_params}"


class Affine(Transform):
    """Any 2x3 affine map: theta holds the rows of [[a, b, tx], [c, d, ty]] (paper eq. 1).

    Coordinates are shares of each side. So [[cos, -sin], [sin, cos]] also shears an image that is not square; without
    shear, the rotation of an H x W image is [[cos, -sin * H / W], [sin * W / H, cos]]. So it is with every transform.

    Examples:
        >>> Affine().map_points(torch.tensor([[0.5, 0, 0.1, 0, 0.5, 0]]), torch.tensor([[1.0, -1.0]])).tolist()
        [[[0.6000000238418579, -0.5]]]
    """

    num_params = 6

    def identity(self) -> Tensor:
        return torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float32)

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        matrix = theta.reshape(-1, 2, 3)
        return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        return _compose_affine(outer, inner, 2)

    def _map_grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        columns = homogeneous_grid(size, theta.device, theta.dtype)
        return (theta.reshape(-1, 3) @ columns).unflatten(0, (-1, 2)).mT


class Affine3d(Transform):
    """Any 3x4 affine map of a volume (appendix A.3).

    theta holds the rows of [[a, b, c, tx], [d, e, f, ty], [g, h, i, tz]].

    Examples:
        >>> Affine3d().grid(Affine3d().identity()[None], (4, 5, 6)).shape
        torch.Size([1, 4, 5, 6, 3])
    """

    num_params = 12
    dims = 3

    def identity(self) -> Tensor:
        return torch.eye(3, 4, dtype=torch.float32).flatten()

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        matrix = theta.reshape(-1, 3, 4)
        return points @ matrix[:, :, :3].mT + matrix[:, None, :, 3]

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        return _compose_affine(outer, inner, 3)

    def _map_grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        columns = homogeneous_grid(size, theta.device, theta.dtype)
        return (theta.reshape(-1, 4) @ columns).unflatten(0, (-1, 3)).mT


class Attention(Transform):
    """Isotropic scale and translation: theta = (s, tx, ty) of [[s, 0, tx], [0, s, ty]] (paper eq. 2).

    Examples:
        >>> Attention().map_points(torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[1.0, -1.0]])).tolist()
        [[[0.75, -0.5]]]
    """

    num_params = 3

    def identity(self) -> Tensor:
        return torch.tensor([1.0, 0, 0], dtype=torch.float32)

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        return theta[:, None, :1] * points + theta[:, None, 1:]

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        return outer[:, :1] * inner + F.pad(outer[:, 1:], (1, 0))


class Translation(Transform):
    """A window of fixed size: theta = (tx, ty) of [[scale, 0, tx], [0, scale, ty]] (section 4.3, birds).

    The identity (0, 0) puts the window in the middle; that changes nothing only with scale 1.

    Args:
        scale: the window's side as a share of the input's, above 0, not learnt.

    Raises:
        ValueError: `scale` is not a number above 0.

    Examples:
        >>> Translation(0.5).map_points(torch.tensor([[0.25, 0.0]]), torch.tensor([[1.0, -1.0]])).tolist()
        [[[0.75, -0.5]]]
    """

    num_params = 2

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(
                f"Translation needs a scale above 0 (a window's share of the image), not {scale}."
            )
        self.scale = scale

    def identity(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float32)

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        return self.scale * points + theta[:, None, :]

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        return outer + inner if self.scale == 1 else super().compose(outer, inner)

    def extra_repr(self) -> str:
        return f"num_params={self.num_params}, scale={self.scale}"


class Projective(Transform):
    """A homography with h33 = 1: theta holds the first eight entries of the 3x3 matrix, row by row (section 3.2).

    Points are divided by their third coordinate w. A |w| below 1e-6 is raised to it, with its sign kept, so that a
    point on the horizon lands far outside of the image instead of at infinity. h33 of a composed map is treated alike.

    Examples:
        >>> theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0.5, 0]])
        >>> Projective().map_points(theta, torch.tensor([[2.0, 1.0]])).tolist()
        [[[1.0, 0.5]]]
    """

    num_params = 8

    def identity(self) -> Tensor:
        return torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0], dtype=torch.float32)

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        return self._map(theta, torch.cat([points, torch.ones_like(points[:, :1])], dim=1).T)

    def _map_grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        return self._map(theta, homogeneous_grid(size, theta.device, theta.dtype))

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        first, second = (self._entries(theta).reshape(-1, 3, 3) for theta in (outer, inner))
        product = _product(first, second).flatten(1)
        return product[:, :8] / self._away_from_zero(product[:, 8:])

    @staticmethod
    def _entries(theta: Tensor) -> Tensor:
        return torch.cat([theta, torch.ones_like(theta[:, :1])], dim=1)

    @staticmethod
    def _away_from_zero(w: Tensor) -> Tensor:
        value = w.detach()
        least = torch.where(value < 0, -1e-6, 1e-6).to(w.dtype)
        return torch.where(value.abs() < 1e-6, least, w)

    def _map(self, theta: Tensor, columns: Tensor) -> Tensor:
        """theta (B, 8), columns (x, y, 1) of points (3, N) -> (B, N, 2)."""
        # Divided by an infinite w, a point would land on a finite 0 and pass the sampler's check.
        theta = theta.masked_fill(theta.isinf(), math.nan)
        matrix = self._entries(theta).reshape(-1, 3)
        x, y, w = (matrix @ columns).unflatten(0, (-1, 3)).unbind(1)  # each (B, N)
        w = self._away_from_zero(w)
        # One coordinate at a time: the gradient has them side by side, and dividing both at once is slow on a CPU.
        return torch.stack([x / w, y / w], dim=1).mT


class ThinPlateSpline(Transform):
    """A thin plate spline through control points, without regularisation (section 3.2; Bookstein 1989).

    theta holds the source position (x, y) of each control point, row by row. The target positions are a regular lattice
    with corners at +-reach; it is the identity. The spline is linear in theta, so its coefficients are solved for once,
    in float64, and a grid is one product.

    Args:
        control_points: (rows, columns) of the lattice, at least 2 each.
        reach: the distance of the outermost points from the centre, on each axis; 1 is the edge of the image.

    Raises:
        ValueError: There are fewer than 2 points along a side, or `reach` is not a number above 0.

    Examples:
        >>> spline = ThinPlateSpline((2, 2))
        >>> spline.identity().tolist()
        [-1.0, -1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
        >>> spline.grid(spline.identity()[None] / 2, (1, 2)).round(decimals=4).abs().tolist()
        [[[[0.25, 0.0], [0.25, 0.0]]]]
    """

    def __init__(self, control_points: tuple[int, int] = (4, 4), *, reach: float = 1.0) -> None:
        super().__init__()
        rows, columns = control_points
        if rows < 2 or columns < 2:
            raise ValueError(f"ThinPlateSpline needs at least 2 x 2 control points, not {rows} x {columns}.")
        if not (math.isfinite(reach) and reach > 0):
            raise ValueError(
                f"ThinPlateSpline needs a reach above 0 (1 is the edge of the image), not {reach}."
            )
        y, x = torch.meshgrid(
            torch.linspace(-reach, reach, rows, dtype=torch.float64, device="cpu"),
            torch.linspace(-reach, reach, columns, dtype=torch.float64, device="cpu"),
            indexing="ij",
        )
        control = torch.stack([x.flatten(), y.flatten()], dim=1)  # (K, 2)
        k = len(control)
        # [[K, P], [P^T, 0]] (w, a) = (source, 0): the first K columns of the inverse give w and a from the source.
        system = torch.zeros(k + 3, k + 3, dtype=torch.float64, device="cpu")
        system[:, :k] = self._basis(control, control).T
        system[:k, k:] = system[k:, :k].T
        self.num_params = 2 * k
        self.shape = (rows, columns)
        self.reach = reach
        # Not buffers: they follow from the constructor, and stay float64 on the CPU wherever the module goes.
        self.control_points = control  # (K, 2)
        self._solve = torch.linalg.inv(system)[:, :k].contiguous()

    @staticmethod
    def _basis(points: Tensor, control: Tensor) -> Tensor:
        """(N, K + 3): U(r) = r^2 log r^2 of the distance to each control point, then 1, x, y. U(0) is its limit, 0."""
        r2 = (points[:, None] - control[None]).square().sum(-1)
        r2 = torch.where(r2 > 0, r2, 1)  # U(1) is 0 too, and the gradient is not 0 times infinity there
        return torch.cat([torch.special.xlogy(r2, r2), torch.ones_like(r2[:, :1]), points], dim=1)

    def identity(self) -> Tensor:
        return self.control_points.flatten().float()

    def map_points(self, theta: Tensor, points: Tensor) -> Tensor:
        return self._map(theta, self._weights(points).to(theta))

    def _map_grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        return self._map(theta, _spline_grid(self, size, theta.device, theta.dtype))

    @staticmethod
    def _map(theta: Tensor, weights: Tensor) -> Tensor:
        """theta (B, 2 K), weights (N, K) -> (B, N, 2)."""
        source = theta.unflatten(1, (-1, 2)).mT.flatten(0, 1)  # (2 B, K)
        return (source @ weights.T).unflatten(0, (-1, 2)).mT

    def _weights(self, points: Tensor) -> Tensor:
        """points (N, 2) -> (N, K), the weight of each control point's source position at each point."""
        return self._basis(points.double().cpu(), self.control_points) @ self._solve

    def extra_repr(self) -> str:
        return f"num_params={self.num_params}, control_points={self.shape}, reach={self.reach}"


def pose(transform: Transform, theta: Tensor) -> dict[str, Tensor]:
    """Angle, size and place of a window, for any family of images: the linear part at the output's centre.

    The angle is that of the nearest rotation, the orthogonal factor of the polar decomposition. What the window shows
    is turned the other way: a digit that was turned by the window's angle is upright in the output. In an image, or an
    output, that is not square, the angle is that of the squares to which both are stretched.

    Args:
        transform: the family, of images.
        theta: (B, num_params).

    Returns:
        Each (B,), float64 for a float64 theta, else float32: `angle` of the window in the input, degrees, clockwise as
        displayed; `scale`, the window's size as a share of the input's; `x`, `y` of its centre, in [-1, 1] across the
        input.

    Examples:
        >>> {key: value.item() for key, value in pose(Affine(), torch.tensor([[0.0, -1, 0, 1, 0, 0]])).items()}
        {'angle': 90.0, 'scale': 1.0, 'x': 0.0, 'y': 0.0}
    """
    step, theta = 1e-2, _in_float(theta)
    points = theta.new_tensor([[0.0, 0], [step, 0], [-step, 0], [0, step], [0, -step]])
    with torch.autocast(theta.device.type, enabled=False):
        centre, right, left, down, up = transform.map_points(theta, points).unbind(1)
    along_x, along_y = (right - left) / (2 * step), (down - up) / (2 * step)  # columns of the Jacobian
    determinant = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    angle = torch.atan2(along_x[:, 1] - along_y[:, 0], along_x[:, 0] + along_y[:, 1])
    return {
        "angle": torch.rad2deg(angle),
        "scale": determinant.abs().sqrt(),
        "x": centre[:, 0],
        "y": centre[:, 1],
    }


@cached
def _spline_grid(
    spline: ThinPlateSpline, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(H * W, K), the weights at the pixel centres, which are the same for every theta."""
    points = regular_grid(size, "cpu", torch.float64).reshape(-1, 2)
    return spline._weights(points).to(device, dtype)
