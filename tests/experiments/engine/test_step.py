"""One step, eager or as a CUDA graph; what a run computes on."""

import time
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from experiments.engine.build import UserError
from experiments.engine.compute import Compute, choose
from experiments.engine.loop import Training, seconds_per_step
from experiments.engine.optim import make_optimizer, one_cycle
from experiments.engine.step import EagerStep, GraphStep, make_step
from experiments.engine.task import Classification
from stn import Affine
from stn.convolution import _plain
from stn.datasets import distortions
from stn.datasets.digits import load_digits
from stn.datasets.distorted import DistortedDigits
from stn.models.mnist import st_cnn

OPTIMIZERS = {
    "sgd": {
        "_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9, "fused": True, "localisation_lr": 0.5
    },
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 0.002, "fused": True, "localisation_lr": 1.0},
}  # fmt: skip


def training(optimizer="sgd", device="cpu", distort=distortions.rotate):
    torch.manual_seed(0)
    data = DistortedDigits(load_digits(), distort, device=device)
    model = st_cnn(data.in_shape, transform=Affine(), width=8).to(device)
    held = make_optimizer(model, OPTIMIZERS[optimizer])
    schedule, compute = one_cycle(held, iterations=40), Compute(torch.device(device), "fp32")
    return Training(model, Classification(), held, schedule, data.train_stream(32), compute)


def step_of(t, graph=False):
    return make_step(t.model, t.optimizer, t.stream, t.task, nullcontext, graph=graph)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_the_measured_time_has_the_optimizer_in_it_and_changes_nothing(optimizer, monkeypatch):
    measured, untouched = training(optimizer), training(optimizer)
    update = type(measured.optimizer).step

    def slow(self, *args, **options):
        assert self is not measured.optimizer
        time.sleep(0.2)
        return update(self, *args, **options)

    monkeypatch.setattr(type(measured.optimizer), "step", slow)
    assert seconds_per_step(measured) >= 0.2
    monkeypatch.undo()
    for one in (measured, untouched):
        step_of(one)()
        one.schedule.step()
    for a, b in zip(measured.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert measured.schedule.state_dict() == untouched.schedule.state_dict()


def test_an_eager_step_is_the_textbook_one():
    ours, plain = training(), training()
    step = step_of(ours)
    sums, aux = step()
    images, labels = plain.stream.next_batch()
    loss = nn.functional.cross_entropy(plain.model(images)[0], labels)
    loss.backward()
    with torch.no_grad():
        for group in plain.optimizer.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad
    assert sums["loss"].item() == pytest.approx(32 * loss.item(), rel=1e-5) and sums["images"] == 32
    assert aux["theta"].shape == (32, 1, 6)
    for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_fused_update_is_the_plain_one(optimizer):
    fused, plain = training(optimizer), training(optimizer)
    plain.optimizer = make_optimizer(plain.model, OPTIMIZERS[optimizer], plain=True)
    assert fused.optimizer.defaults["fused"] and not plain.optimizer.defaults["fused"]
    for t in (fused, plain):
        step = step_of(t)
        for group in t.optimizer.param_groups:
            group["lr"] = 0.01
        step(), step()
    for a, b in zip(fused.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_a_graph_what_a_graph_left_in_the_optimiser_is_undone():
    t = training("adamw")
    for group in t.optimizer.param_groups:
        group["lr"], group["capturable"] = torch.tensor(0.25), True
    assert type(step_of(t)) is EagerStep
    assert all(type(group["lr"]) is float and group["lr"] == 0.25 for group in t.optimizer.param_groups)
    assert not any(group["capturable"] for group in t.optimizer.param_groups)
    step_of(t)()


def test_a_stream_that_cannot_be_recorded_is_stepped_eagerly():
    t = training()

    class Loaded:
        next_batch = t.stream.next_batch

    assert (
        type(make_step(t.model, t.optimizer, Loaded(), Classification(), nullcontext, graph=True))
        is EagerStep
    )


def test_precision_chooses_the_context_of_the_forward_pass():
    cpu = torch.device("cpu")
    with Compute(cpu, "bf16").autocast():
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    with Compute(cpu, "fp32").autocast():
        assert not torch.is_autocast_enabled("cpu") and not _plain.get()
    with Compute(cpu, "plain").autocast():
        assert _plain.get()
    assert not _plain.get()
    assert Compute(torch.device("cuda"), "bf16").graph and Compute(torch.device("cuda"), "fp32").graph
    assert not Compute(torch.device("cuda"), "plain").graph and not Compute(cpu, "bf16").graph
    assert choose("cpu", "auto", None).precision in ("fp32", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        choose("cuda", "auto", None)


def test_a_draw_and_its_batch_are_the_next_batch():
    a, b = training().stream, training().stream
    for _ in range(50):  # over the end of an epoch
        images, labels = a.next_batch()
        again, same = b.batch(b.draw())
        assert torch.equal(images, again) and torch.equal(labels, same)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("distort", [distortions.rotate, distortions.project, distortions.elastic])
def test_a_graph_replays_the_eager_steps(optimizer, distort):
    eager, graph = training(optimizer, "cuda", distort), training(optimizer, "cuda", distort)
    eager_step, graph_step = step_of(eager), step_of(graph, graph=True)
    assert type(graph_step) is GraphStep
    for i in range(60):  # over the end of an epoch, and with a learning rate that moves
        a, b = eager_step()[0], graph_step()[0]
        eager.schedule.step(), graph.schedule.step()
        assert a["loss"].item() == pytest.approx(b["loss"].item(), rel=1e-2), i
    for p, q in zip(eager.model.parameters(), graph.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=2e-3)
    assert torch.equal(eager.stream.generator.get_state(), graph.stream.generator.get_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_goes_on_from_a_checkpoint():
    whole, half = training("adamw", "cuda"), training("adamw", "cuda")
    step = step_of(whole, graph=True)
    for _ in range(12):
        step(), whole.schedule.step()
    step = step_of(half, graph=True)
    for _ in range(6):
        step(), half.schedule.step()
    resumed = training("adamw", "cuda")
    resumed.load_state_dict(half.state_dict())
    step = step_of(resumed, graph=True)
    for _ in range(6):
        step(), resumed.schedule.step()
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=2e-3)
