"""A run that starts from the weights of another: what is taken, what does not fit, and what the run then is."""

import hashlib
import json
import shutil

import pytest
import torch

from experiments.engine import checkpoint, rundir
from experiments.engine.build import UserError
from experiments.engine.identity import differences, identity, stored
from experiments.engine.initial import load_initial, weights_sha256
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.sections import SECTIONS
from tests.experiments.engine.test_run import untimed, weights

FIRST = ("experiment=mnist_r", "model=cnn", "trainer.snapshot_every=4")


@pytest.fixture
def source(configure):
    cfg = configure(*FIRST)
    run(cfg)
    return rundir.run_dir(cfg)


def test_training_starts_at_the_weights_of_the_other_run(configure, source):
    words = (*FIRST, "dataset.distort.max_angle=180", f"init_from={source}")
    cfg = configure(*words)
    result = run(cfg, words)
    folder = rundir.run_dir(cfg, words)
    first, given = checkpoint.load(folder / "snapshots" / "step_000000.pt"), weights(source)
    assert first.keys() == given.keys() and all(torch.equal(first[name], given[name]) for name in given)
    assert any(not torch.equal(weights(folder)[name], given[name]) for name in given)
    assert result.config["init_weights"] == weights_sha256(source) and "init_from" not in result.config
    for name in ("config.json", "result.json"):
        assert str(source) not in (folder / name).read_text()
    (folder / "result.json").unlink()
    (folder / "last.pt").unlink()  # killed after the checkpoint at step 2
    assert untimed(run(cfg, words)) == untimed(result)


def test_the_weights_make_the_run_and_not_their_place(configure, source, tmp_path):
    twin = shutil.copytree(source, tmp_path / "elsewhere")
    here, there = (f"init_from={folder}" for folder in (source, twin))
    plain, one, two = (configure(*FIRST, *more) for more in ((), (here,), (there,)))
    assert identity(one) == identity(two) != identity(plain)
    assert rundir.run_dir(one, (*FIRST, here)) == rundir.run_dir(two, (*FIRST, there))
    assert rundir.run_name(one, (*FIRST, here)).endswith(f",init_from={weights_sha256(source)[:8]}")
    state = checkpoint.load(twin / "last.pt")
    state["model"]["classifier.bias"][3] += 1
    checkpoint.save(twin / "last.pt", state)
    assert differences(identity(one), identity(two)) == [
        f"init_weights ({weights_sha256(source)} -> {weights_sha256(twin)})"
    ]
    assert "init_weights" not in identity(plain)  # the identity of results without it stays
    assert identity(stored(one)) == identity(one)


def test_the_hash_is_of_names_types_shapes_and_bytes(tmp_path):
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3)}
    checkpoint.save(tmp_path / "last.pt", {"model": state, "step": 1})
    expected = b"a torch.int64 [] " + (3).to_bytes(8, "little")
    expected += b"b torch.float32 [1, 2] " + bytes.fromhex("0000c03f000000c0")
    assert weights_sha256(tmp_path) == hashlib.sha256(expected).hexdigest()


def test_what_does_not_fit_is_named(configure, source):
    for words, message in (
        (["model=fcn"], r"classifier\.weight \(10, \d+\) -> \(10, 4\).* Choose the model and the data"),
        (["model=st_cnn"], r"transformers\.\S+ is missing there"),
        (["model.width=5"], r"conv1\.weight \(4, 1, 9, 9\) -> \(5, 1, 9, 9\)"),
    ):
        cfg = configure(*FIRST, *words, f"init_from={source}")
        with pytest.raises(
            UserError, match=rf"^init_from={source} has weights of another network: .*{message}"
        ):
            run(cfg, [*FIRST, *words, f"init_from={source}"])


def test_a_part_starts_afresh_where_the_user_says_so(configure, source):
    wider = torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(1, 4, 9), "classifier": torch.nn.Linear(3, 7)})
    state = weights(source)
    kept = wider["classifier"].weight.clone()
    checkpoint.save(source / "last.pt", {"model": {n: v for n, v in state.items() if "conv2" not in n}})
    with pytest.raises(UserError, match=r"classifier\.bias \(10,\) -> \(7,\)"):
        load_initial(wider, str(source))
    load_initial(wider, str(source), "classifier")
    assert torch.equal(wider["conv1"].weight, state["conv1.weight"])
    assert torch.equal(wider["classifier"].weight, kept)
    with pytest.raises(
        UserError, match="init_without=head names no part of this network: choose one of conv1, class"
    ):
        load_initial(wider, str(source), "head")


def test_bad_keys_get_one_clear_sentence(configure, source, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "last.pt").write_text("text")
    checkpoint.save(tmp_path / "empty" / "last.pt", {"step": 3})
    for word, message in (
        (f"init_from={tmp_path}", "has no last.pt: give the directory of a run"),
        (f"init_from={tmp_path}/text", r"text/last\.pt cannot be read"),
        (f"init_from={tmp_path}/empty", r"empty/last\.pt holds no weights of a network"),
        ("init_without=classifier", "init_without=classifier needs init_from=FOLDER"),
        ("init_weights=0123", "init_weights is not given: it follows from init_from=FOLDER"),
    ):
        with pytest.raises(UserError, match=message):
            run(configure(*FIRST, word), (), SECTIONS)


def test_a_sweep_names_each_start(configure, source):
    from experiments.sweeps.job import Job

    words = [*FIRST, f"init_from={source}"]
    job = Job.of(configure(*words), words)
    assert job.label.endswith(f",init_from={weights_sha256(source)[:8]}-seed_0") and job.result() is None
    held = Result.read(source / "result.json").to_dict()
    job.folder.mkdir(parents=True)
    (job.folder / "result.json").write_text(json.dumps(held))
    assert job.result() is None  # the same run without a start
