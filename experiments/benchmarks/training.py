"""Suites train, overhead, seeds, size and gpu: what a training step costs."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks import peers
from experiments.benchmarks.ours import (
    NAMES,
    SIDE,
    config,
    first_layer,
    halving,
    matrix_product,
    memory_step,
    our_step,
    sized_step,
    together,
    width_of,
)
from experiments.benchmarks.rows import Table, milliseconds, reached, same, versus
from experiments.benchmarks.timing import Runner, Side, Timing, in_turn, ratio
from experiments.engine.build import build


def train(rounds: int) -> Table:
    table = Table(
        "train: one training step of 256 images on R (28x28)",
        [
            "Plain: the same network as tutorials write it (eager float32, NCHW, affine_grid and grid_sample), SGD; "
            "with data: fed by the torchvision pipeline above. Ours: `trainer.precision=auto`, distortions included; "
            "without data: one batch for ever, on both sides.",
            "Check: the largest difference between the logits of both networks with the same weights, in float32.",
        ],
    )
    cases: list[tuple[str, int | None, bool, float | None]] = [
        ("st_cnn", 64, True, 3.0),
        ("st_cnn", None, True, 3.0),
        ("cnn", None, True, 1.5),
        ("fcn", None, True, 1.5),
        ("st_fcn", None, True, 1.5),
        ("st_cnn", 64, False, None),
        ("st_cnn", None, False, None),
        ("cnn", None, False, None),
        ("fcn", None, False, None),
        ("st_fcn", None, False, None),
    ]
    for model, width, data, target in cases:
        solved = width or width_of("mnist_r", model)
        off = check_network(model, solved)
        fed = "mnist_r" if data else None
        sides = [
            Side("ours", our_step, {"experiment": "mnist_r", "model": model, "width": solved, "data": data}),
            Side(
                "plain",
                peers.plain_step,
                {"model": model, "side": 28, "width": solved, "experiment": fed},
            ),
        ]
        ours, plain = in_turn(sides, rounds=rounds, at_least=0.4)
        label = f"{NAMES[model]}, width {solved}{'' if data else ', without data'}"
        table.rows.append(versus(label, ours, plain, target, off))
    return table


def check_network(model: str, width: int, experiment: str = "mnist_r") -> float:
    """The largest difference of a logit between ours and the twin.   raises: RuntimeError if they are not the same."""
    side = SIDE[experiment]
    cfg = config(f"experiment={experiment}", f"model={model}", f"model.width={width}")
    torch.manual_seed(0)
    ours = build(cfg.model, in_shape=(1, side, side), num_classes=10)
    twin = peers.plain_network(model, side, width, cfg.model.get("pool", 1))
    for parameter in ours.parameters():  # off the identity, so that the transformer does something
        parameter.data += 0.01 * torch.randn_like(parameter)
    peers.copy_parameters(ours, twin)
    images = torch.rand(32, 1, side, side)
    return same(ours(images)[0], twin(images), 1e-3, model)


def tricks(rounds: int) -> Table:
    table = Table(
        "tricks: what single ones gain, with all the others on both sides",
        [
            "Banded gradient: the ST-CNN's first convolution on R, forward and backward, bfloat16, 88 filters.",
            "Halving by slices: the 2x average pooling of four 42x42 channels, forward and backward, float32.",
        ],
    )
    cases = [
        ("banded gradient", first_layer, {}, "plain", True, False),
        ("halving by slices", halving, {}, "plain", True, False),
    ]
    for experiment, model in (("mnist_r", "st_cnn"), ("mnist_rts", "cnn")):
        label = f"kept memory, {experiment.removeprefix('mnist_').upper()}, {NAMES[model]} step"
        cases.append((label, memory_step, {"experiment": experiment, "model": model}, "keep", False, True))
    for label, make, arguments, key, without, with_ in cases:
        sides = [
            Side("with", make, arguments | {key: with_}),
            Side("without", make, arguments | {key: without}),
        ]
        ours, theirs = in_turn(sides, rounds=rounds, at_least=0.4)
        gain = str(ratio(theirs, ours))
        table.rows.append(
            {
                "trick": label,
                "with, ms": milliseconds(ours),
                "without, ms": milliseconds(theirs),
                "times as fast (quartiles)": gain,
            }
        )
    return table


def overhead(rounds: int) -> Table:
    table = Table(
        "overhead: a step of the ST-CNN over a step of the CNN of the same width (64), with data",
        [
            "On RTS and TC the transformer's output is pooled to half its size, so the network behind it is smaller.",
            "Plain: the same pair as tutorials write it, in eager float32, without data.",
        ],
    )
    for experiment, most in (("mnist_r", 1.5), ("mnist_rts", 1.0), ("mnist_tc", 1.0)):
        side, pool = SIDE[experiment], 1 if experiment == "mnist_r" else 2
        check_network("st_cnn", 64, experiment)
        sides = [
            Side(m, our_step, {"experiment": experiment, "model": m, "width": 64}) for m in ("st_cnn", "cnn")
        ]
        plain = [
            Side(m, peers.plain_step, {"model": m, "side": side, "width": 64, "pool": p})
            for m, p in (("st_cnn", pool), ("cnn", 1))
        ]
        with_st, without = in_turn(sides, rounds=rounds, at_least=0.4)
        plain_st, plain_cnn = in_turn(plain, rounds=max(rounds // 2, 3), at_least=0.4)
        ours = ratio(with_st, without)
        table.rows.append(
            {
                "case": experiment.removeprefix("mnist_").upper(),
                "ST-CNN, ms": milliseconds(with_st),
                "CNN, ms": milliseconds(without),
                "ratio (quartiles)": str(ours),
                "at most": f"{most:g}",
                "reached": reached(ours.median <= most),
                "plain ST-CNN, ms": milliseconds(plain_st),
                "plain CNN, ms": milliseconds(plain_cnn),
                "plain ratio": str(ratio(plain_st, plain_cnn)),
            }
        )
    return table


def seeds(rounds: int) -> Table:
    table = Table(
        "seeds: finished runs per hour on two cores, schedule fast",
        [
            "One after the other: one process with two threads. Side by side: two processes with one thread each, at "
            "the same time. Together: two seeds in one process, their parameters stacked (`torch.func.vmap`), two "
            "threads.",
            "Steps were timed, with data, and multiplied out; start-up and the final test are left out.",
        ],
    )
    iterations = config("trainer=fast").trainer.iterations
    for experiment, model in (
        ("mnist_r", "st_cnn"),
        ("mnist_rts", "st_cnn"),
        ("mnist_rts", "cnn"),
        ("mnist_r", "fcn"),
    ):
        side = Side("ours", our_step, {"experiment": experiment, "model": model})
        stacked = Side("together", together, {"experiment": experiment, "model": model, "seeds": 2})
        times: dict[str, list[float]] = {"alone": [], "both": [], "stacked": []}
        with (
            Runner(side, 2) as alone,
            Runner(side, 1) as left,
            Runner(side, 1) as right,
            Runner(stacked, 2) as joint,
        ):
            for _ in range(rounds):
                times["alone"].append(alone.measure(1.0))
                left.start(1.5)
                right.start(1.5)
                times["both"].append(1 / (1 / left.result() + 1 / right.result()))
                times["stacked"].append(joint.measure(1.0))
        one, both, stack = (Timing(name, seconds) for name, seconds in times.items())

        def per_hour(timing: Timing) -> str:
            return f"{3600 / (timing.median * iterations):.1f}"

        table.rows.append(
            {
                "case": f"{experiment.removeprefix('mnist_').upper()}, {NAMES[model]}",
                "one after the other": per_hour(one),
                "side by side": per_hour(both),
                "together": per_hour(stack),
                "side by side over one after the other (quartiles)": str(ratio(one, both)),
            }
        )
    return table


def step_flops(side: int, batch: int, width: int) -> int:
    """Floating-point operations of a training step, as PyTorch counts them in the plain network."""
    network = peers.plain_network("st_cnn", side, width).train()
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.rand(2, 1, side, side))
        F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64)).backward()
    return counter.get_total_flops() * batch // 2


def size(rounds: int) -> Table:
    table = Table(
        "size: a training step of the ST-CNN affine against image side, batch and width",
        [
            "Without data. The limit: the floating-point operations of the step (PyTorch's counter on the plain "
            "network) at the speed of a 2048 x 2048 matrix product, measured in turn, in the precision of training.",
        ],
    )
    cases = [(s, 64, 32) for s in (28, 42, 64, 96, 128)]
    cases += [(28, b, 64) for b in (64, 128, 256, 512, 1024)]
    cases += [(28, 256, w) for w in (32, 64, 96, 128)]
    for side, batch, width in dict.fromkeys(cases):
        flops = step_flops(side, batch, width)
        sides = [
            Side("step", sized_step, {"side": side, "batch": batch, "width": width}),
            Side("product", matrix_product),
        ]
        step, product = in_turn(sides, rounds=max(rounds // 2, 3), at_least=0.3)
        limit = flops * product.median
        table.rows.append(
            {
                "side": side,
                "batch": batch,
                "width": width,
                "step, ms": milliseconds(step),
                "GFLOP": round(flops / 1e9, 2),
                "matrix product, GFLOP/s": round(1e-9 / product.median),
                "limit, ms": round(1000 * limit, 1),
                "reached": f"{100 * limit / step.median:.0f}%",
            }
        )
    return table


def gpu(rounds: int) -> Table:
    table = Table(
        "gpu: a training step of 256 images, everything on the device",
        [
            "Eager: `trainer.precision=plain`, float32. Graph: `trainer.precision=bf16`, data and optimiser in one "
            "CUDA graph. Runs per hour: of the paper's schedule, steps multiplied out, for so many processes on the "
            "GPU at once."
        ],
    )
    if not torch.cuda.is_available():
        table.notes.append("Skipped: no CUDA device.")
        return table
    iterations = config("trainer=paper").trainer.iterations
    for experiment, model in (
        ("mnist_r", "st_cnn"),
        ("mnist_r", "cnn"),
        ("mnist_rts", "st_cnn"),
        ("mnist_rts", "cnn"),
        ("mnist_r", "fcn"),
    ):
        common = {"experiment": experiment, "model": model, "device": "cuda"}
        graph = Side("graph", our_step, common | {"precision": "bf16"})
        eager = Side("eager", our_step, common | {"precision": "plain"})
        fast, slow = in_turn([graph, eager], rounds=rounds, at_least=0.5)
        gain = ratio(slow, fast)
        row: dict[str, Any] = {
            "case": f"{experiment.removeprefix('mnist_').upper()}, {NAMES[model]}",
            "graph, it/s": f"{1 / fast.median:.0f}",
            "eager, it/s": f"{1 / slow.median:.0f}",
            "graph over eager (quartiles)": str(gain),
            "at least": "4",
            "reached": reached(gain.median >= 4),
            "runs/h, 1 process": f"{3600 / fast.median / iterations:.1f}",
        }
        for count in (3, 6):
            rate = sum(1 / s for s in _at_once(graph, count, seconds=3.0))
            row[f"runs/h, {count} processes"] = f"{3600 * rate / iterations:.1f}"
        table.rows.append(row)
    return table


def _at_once(side: Side, count: int, seconds: float) -> Iterator[float]:
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(side, 1)) for _ in range(count)]
        for warm in (0.1, seconds):
            for runner in runners:
                runner.start(warm)
            measured = [runner.result() for runner in runners]
    yield from measured
