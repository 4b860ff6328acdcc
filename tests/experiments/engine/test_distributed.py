"""Two processes on the CPU train what one does, and only one of them writes."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.distributed import Group, ShardedStream, process_group
from experiments.engine.interfaces import Task
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.engine.task import Classification
from stn.datasets.streams import TrainStream

ROOT = Path(__file__).resolve().parents[3]
TINY = (
    "experiment=mnist_rts", "model=st_cnn", "dataset=digits", "trainer=smoke", "device=cpu", "threads=1",
    "model.width=6", "trainer.iterations=6", "trainer.batch_size=16", "trainer.log_every=2",
    "trainer.checkpoint_every=2", "trainer.val_every=2", "dataset.val_size=20", "wandb.mode=disabled", "figures=false",
)  # fmt: skip


def launch(folder):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "train.py",
            *TINY,
            f"output_dir={folder}",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    run(configuration([*TINY, f"output_dir={tmp_path / '1'}"]))
    done = launch(tmp_path / "2")
    assert done.returncode == 0, done.stderr
    results, states, histories = [], [], []
    for processes in (1, 2):
        (path,) = (tmp_path / str(processes)).rglob("result.json")
        results.append(Result.read(path))
        states.append(torch.load(path.parent / "last.pt", weights_only=True)["model"])
        histories.append(
            [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        )
    one, two = results
    assert one.config_hash == two.config_hash and one.test_fingerprint == two.test_fingerprint
    for name, weights in states[0].items():
        torch.testing.assert_close(states[1][name], weights, rtol=1e-3, atol=1e-5)
    assert two.metrics["test_loss"] == pytest.approx(one.metrics["test_loss"], rel=1e-3)
    assert [line["step"] for line in histories[1]] == [2, 4, 6]
    for a, b in zip(*histories, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-3)
        assert b["train/error"] == pytest.approx(a["train/error"], abs=1e-6)
    # the first alone has written, and it says so once
    assert [path.name for path in (tmp_path / "2").rglob("*.json")].count("result.json") == 1
    again = launch(tmp_path / "2")
    assert (
        again.returncode == 0
        and again.stderr.count("is finished already") + again.stdout.count("is finished already") == 1
    )


class Plain(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x), {}


def join(rank, port):
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    model, batch = Plain(2, 2), (torch.full((1, 2), 1.0 + rank), torch.tensor([0]))
    with process_group("cpu") as group:
        group.wrap(Classification(), model).loss(model, batch)[0].backward()
        torch.optim.AdamW(model.parameters()).step()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed on Linux")
def test_no_thread_of_the_group_outlives_it():
    """Such a thread can abort the process where the interpreter ends before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(join, (port,), nprocs=2)


def test_what_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size=6 does not divide among 4 processes"):
        ShardedStream(digits(), 0, 4)


def digits(seed=0):
    images, labels = torch.rand(20, 1, 4, 4), torch.arange(20)
    return TrainStream(
        images, labels, lambda x, g: x + torch.rand(len(x), 1, 1, 1, generator=g), batch_size=6, seed=seed
    )


def test_the_parts_of_a_batch_are_the_batch():
    torch.manual_seed(0)
    whole = digits()
    torch.manual_seed(0)
    first = ShardedStream(digits(), 0, 2)
    torch.manual_seed(0)
    second = ShardedStream(digits(), 1, 2)
    for step in range(7):
        images, labels = whole.next_batch()
        a, b = first.next_batch(), second.next_batch()
        assert torch.equal(torch.stack([a[0], b[0]], 1).flatten(0, 1), images)
        assert torch.equal(torch.stack([a[1], b[1]], 1).flatten(), labels)
        if step == 3:  # the state is that of one process: any number of them goes on from it
            state, twin = copy.deepcopy(first.state_dict()), copy.deepcopy(first)
            second.load_state_dict(state)
    whole.load_state_dict(state)
    assert torch.equal(twin.next_batch()[0], whole.next_batch()[0][0::2])


def test_photographs_leave_out_the_others_rows():
    class Photographs:
        batch_size, rows = 6, slice(None)

        def next_batch(self):
            return (torch.arange(6)[self.rows],)

    assert ShardedStream(Photographs(), 1, 3).next_batch()[0].tolist() == [1, 4]


def test_alone_is_a_group_of_one():
    group, model, task = Group(), torch.nn.Linear(2, 2), Task()
    assert group.first and group.wrap(task, model) is task and group.broadcast(5) == 5
    assert group.total({"loss": torch.tensor(2.5)}) == {"loss": 2.5}

    class Pairs(Task):
        separable = False

    assert group.prepare(model, Pairs()) is model
    with pytest.raises(UserError, match="does not divide among processes"):
        Group(0, 2).prepare(model, Pairs())
