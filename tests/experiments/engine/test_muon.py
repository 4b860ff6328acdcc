"""Muon and AdamW as one optimiser, against SVD, torch.optim.Muon and torch.optim.AdamW."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn

from experiments.engine.muon import COEFFICIENTS, MuonAdamW, orthogonalise
from experiments.engine.optim import hidden_matrices, make_optimizer
from stn.models.beyond import st_cnn_shared
from stn.models.mnist import st_cnn
from stn.transforms import Affine

MUON = {
    "_target_": "experiments.engine.muon.MuonAdamW",
    "lr": 0.003,
    "localisation_lr": 0.5,
    "matrices": {"lr": 0.02, "weight_decay": 0.1},
}


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (24, 32), (1, 9)])
def test_orthogonalised_has_the_singular_vectors_and_singular_values_near_one(shape):
    matrix = _random(*shape, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    out = orthogonalise(matrix[None])[0]
    turned = u.T @ out @ vt.T  # diagonal where the singular vectors are the matrix' own
    assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-9)
    assert turned.diagonal().min() > 0.65 and turned.diagonal().max() < 1.21


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (24, 24)])
def test_orthogonalising_is_newton_schulz_on_the_matrix_itself(shape):
    matrix = _random(*shape)
    a, b, c = COEFFICIENTS
    expected = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = expected @ expected.T
        expected = (a * torch.eye(len(gram), dtype=torch.float64) + b * gram + c * gram @ gram) @ expected
    assert torch.allclose(orthogonalise(matrix[None])[0].double(), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (24, 24)])
def test_bfloat16_is_the_same_to_two_digits(shape):
    matrix = _random(2, *shape)
    exact, low = orthogonalise(matrix), orthogonalise(matrix, bf16=True)
    assert low.dtype == torch.float32 and low.shape == exact.shape
    assert (low - exact).norm() < 0.03 * exact.norm()


def test_orthogonalising_does_not_depend_on_the_size_and_zero_stays_zero():
    matrix = _random(1, 8, 20)
    assert torch.allclose(orthogonalise(1e-3 * matrix), orthogonalise(1e3 * matrix), atol=1e-5)
    assert orthogonalise(torch.zeros(1, 8, 20)).abs().max() == 0


def test_singular_values_far_below_the_largest_stay_finite_in_float32():
    u, _, vt = torch.linalg.svd(_random(64, 256, dtype=torch.float64), full_matrices=False)
    matrix = (u * torch.logspace(0, -12, 64, dtype=torch.float64)) @ vt
    out = orthogonalise(matrix.float()[None])[0]
    assert torch.linalg.svdvals(out).max() < 1.3


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_matrices_move_as_under_torch_optim_muon(shape):
    start = _random(*shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    pairs = [
        (ours, MuonAdamW([ours], matrices=True, **options)),
        (theirs, torch.optim.Muon([theirs], adjust_lr_fn="original", **options)),
    ]
    for step in range(10):
        for parameter, optimizer in pairs:
            parameter.grad = _random(*shape, seed=step + 1)
            optimizer.step()
    # torch's orthogonalises in bfloat16, to about two digits.
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.1


def test_a_kernel_moves_as_its_matrix_does():
    kernel, matrix = nn.Parameter(_random(6, 3, 5, 5)), nn.Parameter(_random(6, 3, 5, 5).flatten(1))
    kernel.data = kernel.data.to(memory_format=torch.channels_last)
    optimizers = [MuonAdamW([p], lr=0.1, matrices=True) for p in (kernel, matrix)]
    for step in range(3):
        grad = _random(6, 3, 5, 5, seed=step + 1)
        kernel.grad, matrix.grad = grad.to(memory_format=torch.channels_last), grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)


def test_a_step_of_a_tall_matrix_is_scaled_by_the_root_of_its_shape():
    parameter = nn.Parameter(torch.zeros(40, 10))
    parameter.grad = _random(40, 10)
    MuonAdamW([parameter], lr=0.1, matrices=True, weight_decay=0).step()
    values = torch.linalg.svdvals(parameter.detach()) / (0.1 * math.sqrt(4))
    assert values.min() > 0.65 and values.max() < 1.21


def test_everything_else_moves_as_under_torch_optim_adamw():
    starts = [_random(7), _random(5, 4, seed=1)]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}
    pairs = [(ours, MuonAdamW(ours, **options)), (theirs, torch.optim.AdamW(theirs, **options))]
    for step in range(20):
        for parameters, optimizer in pairs:
            for i, parameter in enumerate(parameters):
                parameter.grad = _random(*parameter.shape, seed=10 * step + i)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def _network_and_optimizer() -> tuple[nn.Module, MuonAdamW]:
    torch.manual_seed(0)
    model = st_cnn((1, 28, 28), transform=Affine(), width=4)
    optimizer = make_optimizer(model, MUON)
    assert isinstance(optimizer, MuonAdamW)
    return model, optimizer


def _train(model: nn.Module, optimizer: MuonAdamW, steps: range) -> None:
    for step in steps:
        logits, _ = model(_random(8, 1, 28, 28, seed=step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(8)).backward()
        optimizer.step()


def test_resumes_bit_equal():
    model, optimizer = _network_and_optimizer()
    _train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    _train(model, optimizer, range(3, 6))

    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed, second = _network_and_optimizer()
    resumed.load_state_dict(state["model"])
    second.load_state_dict(state["optimizer"])
    _train(resumed, second, range(3, 6))
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_rate_that_is_a_tensor_does_the_same():
    model, optimizer = _network_and_optimizer()
    twin, second = copy.deepcopy(model), None
    second = make_optimizer(twin, MUON)
    for group in second.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    _train(model, optimizer, range(3))
    _train(twin, second, range(3))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_parameters_without_gradient_stay():
    parameter = nn.Parameter(torch.ones(3, 3))
    for matrices in (True, False):
        MuonAdamW([parameter], matrices=matrices).step()
    assert torch.equal(parameter, torch.ones(3, 3))


def test_bfloat16_parameters_are_orthogonalised_in_float32():
    start = _random(16, 64)
    low, high = nn.Parameter(start.bfloat16()), nn.Parameter(start.bfloat16().float())
    for parameter in (low, high):
        parameter.grad = start.flip(0).bfloat16().to(parameter.dtype)
        MuonAdamW([parameter], lr=1.0, weight_decay=0, matrices=True).step()
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), high, atol=0.02)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (st_cnn, (1, 4, 7)),
        (partial(st_cnn, batch_norm=True), (1, 5, 9)),  # between them vectors: the normalisation's
        (partial(st_cnn, looks=2), (1, 4, 7)),
        (st_cnn_shared, (1,)),
    ],
    ids=["st_cnn", "batch_norm", "looks", "shared"],
)
def test_hidden_matrices_are_all_but_classifier_and_heads(make, layers):
    model = make((1, 28, 28), transform=Affine(), width=4)
    hidden = {id(parameter) for parameter in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    assert names == {
        *(f"transformers.0.localisation.{layer}.weight" for layer in layers),
        "classifier.conv1.weight",
        "classifier.conv2.weight",
    }


def test_groups_hold_every_parameter_once_and_the_factor_reaches_both_rates():
    model, optimizer = _network_and_optimizer()
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    rates = [(group["matrices"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert rates == [(False, 0.003, 0.01), (True, 0.02, 0.1), (False, 0.0015, 0.01), (True, 0.01, 0.1)]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="shape"):
        MuonAdamW([nn.Parameter(torch.zeros(3))], matrices=True)
    with pytest.raises(ValueError, match="momentum"):
        MuonAdamW([nn.Parameter(torch.zeros(3))], momentum=1.0)
    with pytest.raises(ValueError, match="lr=-1"):
        make_optimizer(st_cnn((1, 28, 28), transform=Affine(), width=4), MUON | {"lr": -1})
