"""For any theta, shape, dtype and mode, finite in is finite out, gradients too; errors are those of the docstrings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stn

TRANSFORMS = [
    stn.Attention(), stn.Translation(0.5), stn.Affine(), stn.Projective(), stn.ThinPlateSpline((2, 3)), stn.Affine3d(),
]  # fmt: skip
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
sides = st.integers(1, 6)
numbers = st.one_of(st.floats(-3, 3, width=32), st.floats(-1e4, 1e4, width=32))


@few
@given(data=st.data(), transform=st.sampled_from(TRANSFORMS), batch=st.integers(0, 3))
def test_finite_in_gives_finite_gradients_out(data, transform, batch):
    axes = st.tuples(*[sides] * transform.dims)
    count = batch * transform.num_params
    theta = torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)), dtype=torch.float32)
    theta = theta.reshape(batch, transform.num_params).to(
        data.draw(st.sampled_from([torch.float32, torch.float64]))
    )
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
    image = torch.rand(batch, 2, *data.draw(axes), generator=torch.Generator().manual_seed(0)).to(dtype)
    how = {"mode": data.draw(st.sampled_from(stn.sampler.MODES))}
    how["padding"] = data.draw(st.sampled_from(stn.sampler.PADDINGS))
    theta.requires_grad_()
    image.requires_grad_()
    size = data.draw(axes)
    out = stn.sample(image, transform.grid(theta, size), **how)
    assert out.shape == (batch, 2, *size) and out.dtype == dtype
    assert out.isfinite().all()
    # Bilinear weights sum to at most 1; half a step of the dtype for the rounding.
    assert ((out >= 0) & (out <= 1 + torch.finfo(dtype).eps)).all()
    out.float().square().sum().backward()
    assert image.grad.isfinite().all() and theta.grad.isfinite().all()


@few
@given(
    data=st.data(),
    transform=st.sampled_from(TRANSFORMS),
    values=st.lists(st.floats(width=32), min_size=12, max_size=12),
    image=st.lists(st.integers(0, 3), min_size=3, max_size=6),
    theta=st.lists(st.integers(0, 13), min_size=1, max_size=3),
    size=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_whatever_comes_in_only_documented_errors_come_out(data, transform, values, image, theta, size):
    theta = data.draw(st.sampled_from([theta, [image[0], transform.num_params]]))
    flat = torch.tensor(values).repeat(math.ceil(math.prod(theta) / 12))[: math.prod(theta)]
    how = {"mode": data.draw(st.sampled_from([*stn.sampler.MODES, "bicubic"]))}
    kind = data.draw(st.sampled_from([torch.uint8, torch.bool, torch.float32, torch.complex64]))
    if 0 in image[1:]:  # no pixel to look at
        image = [max(n, 1) if k else n for k, n in enumerate(image)]
    try:
        out = stn.sample(torch.ones(image).to(kind), transform.grid(flat.reshape(theta), tuple(size)), **how)
    except (ValueError, FloatingPointError):
        return
    assert out.shape == (*image[:2], *size) and out.dtype == kind


def test_a_property_that_does_not_hold_is_found():
    @few
    @given(numbers)
    def small(number: float) -> None:
        assert abs(number) < 4

    with pytest.raises(AssertionError):
        small()
