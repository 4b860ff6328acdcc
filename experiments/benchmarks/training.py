"""Suites train, tricks, overhead, seeds, size and gpu: what a training step costs."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks import steps, timing
from experiments.benchmarks.baselines import copy_parameters, plain_network, plain_step
from experiments.benchmarks.steps import LABELS, SIDE, config, label, training_step
from experiments.benchmarks.timing import Row, Runner, SkippedError, Timing, compare, goal, in_turn, ratio

RUNS = [
    ("mnist_r", "st_cnn"),
    ("mnist_r", "cnn"),
    ("mnist_rts", "st_cnn"),
    ("mnist_rts", "cnn"),
    ("mnist_r", "fcn"),
]


def train(rounds: int) -> list[Row]:
    """Train: one training step of 256 images on R (28x28).

    Plain: the same network as tutorials write it (eager float32, NCHW, affine_grid and grid_sample), SGD; with data: an
    epoch of 32 batches from the torchvision pipeline above, whose workers start before the clock and have ended before
    our turn. Ours: `trainer.precision=auto`, distortions included; without data: one batch for ever, on both sides.

    Largest difference: between the logits of both networks with the same weights, in float32.
    """
    models = (("st_cnn", 64), ("st_cnn", None), ("cnn", None), ("fcn", None), ("st_fcn", None))
    rows = []
    for data in (True, False):
        for model, given in models:
            width = given or steps.digits_network(28, "experiment=mnist_r", f"model={model}").width
            sides = {
                "ours": partial(training_step, "mnist_r", model, f"model.width={width}", data=data),
                "plain": partial(plain_step, model, 28, width, experiment="mnist_r" if data else None),
            }
            case = f"{LABELS[model]}, width {width}{'' if data else ', without data'}"
            at_least = (3.0 if model == "st_cnn" else 1.5) if data else None
            row = {"at_least": at_least, "difference": check_network(model, width)}
            rows.append(compare(case, sides, rounds=rounds, seconds=0.4, **row))
    return rows


def check_network(model: str, width: int, experiment: str = "mnist_r") -> float:
    """The largest difference of a logit between ours and the plain twin.   raises: RuntimeError where it is large."""
    side = SIDE[experiment]
    torch.manual_seed(0)
    ours = steps.digits_network(side, f"experiment={experiment}", f"model={model}", f"model.width={width}")
    twin = steps.twin_of(ours, model, side)
    for parameter in ours.parameters():  # off the identity, so that the transformer does something
        parameter.data += 0.01 * torch.randn_like(parameter)
    copy_parameters(ours, twin)
    images = torch.rand(32, 1, side, side)
    return timing.largest_difference(ours(images)[0], twin(images), 1e-3, model)


def tricks(rounds: int) -> list[Row]:
    """Tricks: what single ones gain, with all the others on both sides.

    Banded gradients: the ST-CNN's two convolutions on R, forward and backward, bfloat16, 88 filters. Those of the
    second are PyTorch's own on both sides where the CPU does not multiply tiles of bfloat16 matrices (AMX).
    """
    cases: dict[str, Any] = {
        "banded gradients, first convolution": partial(steps.convolution, channels=1, side=28, kernel=9),
        "banded gradients, second convolution": partial(steps.convolution, channels=88, side=10, kernel=7),
        "halving four 42x42 channels by slices, forward and backward, float32": steps.halving,
    }
    for run in (("mnist_r", "st_cnn"), ("mnist_rts", "cnn")):
        cases[f"kept memory, {label(*run)} step"] = partial(steps.memory_step, *run)
    rows = []
    for name, make in cases.items():
        sides = {"with": partial(make, plain=False), "without": partial(make, plain=True)}
        with_it, without = in_turn(sides, rounds=rounds, at_least=0.4)
        gain = ratio(without, with_it)
        rows.append({"trick": name, "with_ms": with_it.ms, "without_ms": without.ms, "times_as_fast": gain})
    return rows


def overhead(rounds: int) -> list[Row]:
    """Overhead: a step of the ST-CNN over a step of the CNN of the same width (64), with data.

    On RTS and TC the transformer's output is pooled to half its size, so the network behind it is smaller.

    Plain: the same pair as tutorials write it, in eager float32, without data.
    """
    rows = []
    for experiment, at_most in (("mnist_r", 1.5), ("mnist_rts", 1.0), ("mnist_tc", 1.0)):
        pools = {"st_cnn": 1 if experiment == "mnist_r" else 2, "cnn": 1}
        check_network("st_cnn", 64, experiment)
        ours = {m: partial(training_step, experiment, m, "model.width=64") for m in pools}
        plain = {m: partial(plain_step, m, SIDE[experiment], 64, pool) for m, pool in pools.items()}
        with_st, without = in_turn(ours, rounds=rounds, at_least=0.4)
        plain_st, plain_cnn = in_turn(plain, rounds=max(rounds // 2, 3), at_least=0.4)
        cost = ratio(with_st, without)
        row: Row = {"case": experiment.removeprefix("mnist_").upper()}
        row |= {"ST-CNN_ms": with_st.ms, "CNN_ms": without.ms, "ratio": cost} | goal(cost, at_most=at_most)
        row |= {"plain_ST-CNN_ms": plain_st.ms, "plain_CNN_ms": plain_cnn.ms}
        rows.append(row | {"plain_ratio": ratio(plain_st, plain_cnn)})
    return rows


def seeds(rounds: int) -> list[Row]:
    """Seeds: finished runs per hour on two cores, at the iterations that schedule fast had in the revision.

    One after the other: one process with two threads. Side by side: two processes with one thread each, at the same
    time. Stacked: two seeds in one process, their parameters stacked (`torch.func.vmap`), two threads.

    Steps were timed, with data, and multiplied out; start-up and the final test are left out.
    """
    hour = 3600 / config("trainer=fast").trainer.iterations  # runs an hour at a step a second
    rows = []
    for experiment, model in (RUNS[0], *RUNS[2:]):
        one = partial(training_step, experiment, model)
        both = partial(steps.stacked_step, experiment, model, 2)
        sides = {
            "one_after_the_other": [Runner(one, 2)],
            "side_by_side": [Runner(one, 1), Runner(one, 1)],
            "stacked": [Runner(both, 2)],
        }
        times = {name: Timing(name, []) for name in sides}
        with ExitStack() as stack:
            for runners in sides.values():
                for runner in runners:
                    stack.enter_context(runner)
                timing.together(runners, 0.1)  # not counted
            for _ in range(rounds):
                for name, runners in sides.items():
                    rate = timing.together(runners, 1.5 if name == "side_by_side" else 1.0)
                    times[name].seconds.append(1 / rate)
        rates = {f"{name}_runs_per_hour": hour / timed.median for name, timed in times.items()}
        gain = ratio(times["one_after_the_other"], times["side_by_side"])
        row = {"case": label(experiment, model), **rates}
        rows.append(row | {"side_by_side_over_one_after_the_other": gain})
    return rows


def step_flops(side: int, batch: int, width: int) -> int:
    """Floating-point operations of a training step, as PyTorch counts them in the plain ST-CNN."""
    network = plain_network("st_cnn", side, width).train()
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.rand(2, 1, side, side))
        F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64)).backward()
    return counter.get_total_flops() * batch // 2


def size(rounds: int) -> list[Row]:
    """Size: a training step of the ST-CNN affine against image side, batch and width.

    Without data. The limit: the floating-point operations of the step (PyTorch's counter on the plain network) at the
    speed of a 2048 x 2048 matrix product, measured in turn, in the precision of training.
    """
    cases = [(side, 64, 32) for side in (28, 42, 64, 96, 128)]
    cases += [(28, batch, 64) for batch in (64, 128, 256, 512, 1024)]
    cases += [(28, 256, width) for width in (32, 64, 96, 128)]
    rows = []
    for side, batch, width in dict.fromkeys(cases):
        flops = step_flops(side, batch, width)
        sides = {
            "step": partial(steps.sized_step, side, batch, width),
            "product": partial(steps.matrix_product),
        }
        step, product = in_turn(sides, rounds=max(rounds // 2, 3), at_least=0.3)
        limit = flops * product.median
        row: Row = {"side": side, "batch": batch, "width": width, "step_ms": step.ms, "gflop": flops / 1e9}
        row |= {"matrix_product_gflop_per_second": 1e-9 / product.median, "limit_ms": 1000 * limit}
        rows.append(row | {"of_the_limit_percent": 100 * limit / step.median})
    return rows


def gpu(rounds: int) -> list[Row]:
    """GPU: a training step of 256 images, everything on the device.

    Eager: `trainer.precision=plain`, float32. Graph: `trainer.precision=bf16`, data and optimiser in one CUDA graph.
    Runs per hour: of the paper's schedule, steps multiplied out, for so many processes on the GPU at once.
    """
    if not torch.cuda.is_available():
        raise SkippedError("it needs a CUDA device.")
    hour = 3600 / config("trainer=paper").trainer.iterations  # runs an hour at a step a second
    rows = []
    for experiment, model in RUNS:
        make = partial(training_step, experiment, model, device="cuda")
        graph, eager = partial(make, precision="bf16"), partial(make, precision="plain")
        fast, slow = in_turn({"graph": graph, "eager": eager}, rounds=rounds, at_least=0.5)
        gain = ratio(slow, fast)
        rates = {1: 1 / fast.median}
        for count in (3, 6):
            with ExitStack() as stack:
                runners = [stack.enter_context(Runner(graph, 1)) for _ in range(count)]
                timing.together(runners, 0.1)  # not counted
                rates[count] = timing.together(runners, 3.0)
        row: Row = {"case": label(experiment, model), "graph_steps_per_second": 1 / fast.median}
        row |= {"eager_steps_per_second": 1 / slow.median, "graph_over_eager": gain}
        row |= goal(gain, at_least=4.0)
        rows.append(row | {f"with_{n}_at_once_runs_per_hour": hour * rate for n, rate in rates.items()})
    return rows
