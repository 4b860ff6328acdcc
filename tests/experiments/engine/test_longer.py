"""A run with more steps goes on from a shorter one where its first steps are the same, and only there."""

import json
import shutil

from experiments.engine import checkpoint, longer, rundir
from experiments.engine.run import run
from experiments.engine.smoothing import SmoothedClassification
from experiments.engine.task import Classification
from experiments.sections.colocalisation import Colocalisation
from tests.experiments.engine.test_run import assert_same_weights, history, untimed

PAPER = (
    "trainer=paper", "trainer.batch_size=8", "trainer.schedule.step_size=3", "optimizer.lr=0.05",
    "trainer.snapshot_every=2",
)  # fmt: skip


def train(configure, *words: str):
    """A run in the directory that its overrides name, as `train.py` has it."""
    cfg = configure(*words)
    return run(cfg, words), rundir.run_dir(cfg, words)


def test_more_steps_on_a_finished_run_end_bit_for_bit_as_the_run_that_had_them_from_the_start(
    configure, tmp_path, caplog
):
    caplog.set_level("INFO")
    words = (*PAPER, "dataset.val_size=40", "model=st_cnn_bn")  # its running statistics are part of the state
    _, short = train(configure, *words, "trainer.iterations=4")
    before = {path: path.read_bytes() for path in short.rglob("*") if path.is_file()}
    result, folder = train(configure, *words, "trainer.iterations=10")
    assert f"The first 4 steps are those of {short}: going on from there." in caplog.text
    assert f"Resuming {folder} at step 4." in caplog.text
    whole, there = train(configure, *words, "trainer.iterations=10", f"output_dir={tmp_path}/whole")
    assert untimed(result) == untimed(whole) and result.iterations == 10
    for name in ("last.pt", "before.pt", "best.pt"):
        assert_same_weights(folder, there, name)
    assert history(folder) == history(there) and [line["step"] for line in history(folder)] == [
        2,
        4,
        6,
        8,
        10,
    ]
    assert list(checkpoint.snapshots(folder)) == list(checkpoint.snapshots(there)) == [0, 2, 4, 6, 8, 10]
    assert {path: path.read_bytes() for path in short.rglob("*") if path.is_file()} == before


def test_a_last_step_that_the_longer_run_does_not_stop_at_is_not_gone_on_from(configure, tmp_path, caplog):
    """The run of 5 steps validates at step 5 and may keep those weights as the best: the longer one never would."""
    caplog.set_level("INFO")
    words = (*PAPER, "dataset.val_size=40")
    train(configure, *words, "trainer.iterations=5")
    result, folder = train(configure, *words, "trainer.iterations=8")
    assert "The first 4 steps are those of" in caplog.text
    whole, there = train(configure, *words, "trainer.iterations=8", f"output_dir={tmp_path}/whole")
    assert untimed(result) == untimed(whole) and history(folder) == history(there)
    assert_same_weights(folder, there, "best.pt")


def test_of_a_schedule_that_follows_from_the_number_of_steps_it_says_why_not_and_what_to_do(
    configure, tmp_path, caplog
):
    caplog.set_level("INFO")
    _, short = train(configure, "trainer.iterations=4")
    result, _ = train(configure, "trainer.iterations=8")
    assert (
        f"{short} is a run of 4 steps, but they are not the first of this run: trainer.schedule.iterations (4 -> 8) "
        f"gives each step another learning rate. This run starts at step 0; init_from={short} starts it from"
    ) in caplog.text
    assert "Resuming" not in caplog.text
    whole, _ = train(configure, "trainer.iterations=8", f"output_dir={tmp_path}/whole")
    assert untimed(result) == untimed(whole)


def test_what_differs_or_is_damaged_is_none_to_go_on_from(configure, tmp_path, caplog):
    caplog.set_level("INFO")
    _, short = train(configure, *PAPER, "trainer.iterations=4")

    def goes_on(*words: str) -> bool:
        new = tmp_path / "new"
        shutil.rmtree(new, ignore_errors=True)
        longer.adopt(
            new, configure(*PAPER, "trainer.iterations=6", *words), Classification(), validates=False
        )
        return (new / "last.pt").exists()

    assert goes_on()
    for word in ("seed=1", "dataset.distort.max_angle=20", "optimizer.lr=0.1", "trainer.iterations=3"):
        assert not goes_on(word), word
    (short / "config.json").rename(tmp_path / "kept.json")
    for text in ("{", "[]", json.dumps({"trainer": 3})):
        (short / "config.json").write_text(text)
        assert not goes_on(), text
    (tmp_path / "kept.json").rename(short / "config.json")
    (short / "last.pt").write_bytes(b"")
    caplog.clear()
    assert goes_on() and "The first 2 steps" in caplog.text  # from before.pt
    (short / "last.pt").unlink()
    assert not goes_on()


def test_a_run_with_a_checkpoint_of_its_own_resumes_that(tmp_path, configure, caplog):
    caplog.set_level("INFO")
    checkpoint.save(tmp_path / "last.pt", {"step": 1})
    longer.adopt(tmp_path, configure(*PAPER), Classification(), validates=False)
    assert checkpoint.load(tmp_path / "last.pt") == {"step": 1} and caplog.text == ""


def test_a_task_that_follows_the_share_of_the_training_says_so(configure, tmp_path, caplog):
    assert SmoothedClassification([0.3, 0.1]).paced and not SmoothedClassification().paced
    assert Colocalisation.paced.fget(Colocalisation.__new__(Colocalisation)) and not Classification().paced
    _, short = train(configure, *PAPER, "trainer.iterations=2")
    cfg = configure(*PAPER, "trainer.iterations=4")
    caplog.set_level("INFO")
    longer.adopt(tmp_path / "new", cfg, SmoothedClassification([0.3, 0.1]), validates=False)
    assert f"{short} is a run of 2 steps" in caplog.text
    assert "SmoothedClassification follows the share of the training that is done. This run" in caplog.text
    assert not (tmp_path / "new").exists()
