"""How long a run takes: which finished runs say so, the nearest first, and what is said of them."""

import json
from pathlib import Path

import pytest

from experiments import sections
from experiments.engine.configuration import configuration
from experiments.engine.overrides import Overrides
from experiments.sweeps import estimates
from experiments.sweeps.estimates import Estimator
from experiments.sweeps.job import Job
from tests.experiments.sweeps.conftest import result_of

TABLES_BY_NAME = sections.TABLES
TABLES = list(TABLES_BY_NAME.values())
HERE = "cpu: A, 1 thread"


def made(*overrides):
    cfg = configuration(overrides)
    places = [(table.name, table.place(result_of(cfg))) for table in TABLES]
    cells = [(name, *place) for name, place in places if place and place[1] in TABLES_BY_NAME[name].columns]
    return Job.of(cfg, overrides, root=Path("/nowhere"), cell=cells[0] if cells else None)


def finished(*overrides, seconds, device=HERE):
    return result_of(configuration(overrides), seconds=seconds, device=device)


def estimate(ours, runs):
    return Estimator(runs, HERE, TABLES)(ours)


def test_the_nearest_runs_say_it_and_are_named():
    ours = made("experiment=mnist_rts", "model=st_fcn", "seed=3")  # paper: 150,000 x 256
    column = finished("experiment=mnist_p", "model=st_fcn", "trainer=fast", seconds=10.0)
    transform = finished(
        "experiment=mnist_rts", "model=st_fcn", "transform=tps", "trainer=fast", seconds=20.0
    )
    schedule = finished("experiment=mnist_rts", "model=st_fcn", "trainer=fast", seconds=40.0)
    cell = [finished("experiment=mnist_rts", "model=st_fcn", seconds=s) for s in (900.0, 1100.0)]
    nothing = [
        finished("experiment=mnist_rts", "model=st_cnn", seconds=1.0),
        finished("experiment=mnist_tc", "model=st_fcn", seconds=1.0),  # of another table
    ]

    def say(*runs):
        found = estimate(ours, [*nothing, *runs])
        return found and (round(found.seconds), str(found))

    assert say() is None
    assert say(column) == (188, "~3 min (from ST-FCN affine on P in fast)")  # 18.75 times the images
    assert say(column, transform) == (250, "~4 min (from ST-FCN TPS in fast)")  # 12.5 times
    assert say(column, transform, schedule) == (500, "about 8 min (from fast)")
    assert say(column, transform, schedule, *cell) == (1000, "about 17 min")


def test_among_columns_the_one_of_most_similar_images_and_the_same_transform():
    ours = made("experiment=mnist_p", "model=st_fcn", "trainer=fast")
    larger = finished("experiment=mnist_rts", "model=st_fcn", "trainer=fast", seconds=900.0)
    other = finished("experiment=mnist_r", "model=st_fcn", "transform=tps", "trainer=fast", seconds=60.0)
    same = [finished(f"experiment=mnist_{e}", "model=st_fcn", "trainer=fast", seconds=s)
            for e, s in (("r", 60.0), ("e", 180.0))]  # fmt: skip
    found = estimate(ours, [larger, other])
    assert str(found) == "~1 min (from ST-FCN TPS on R)"
    found = estimate(ours, [larger, other, *same])
    assert str(found) == "~2 min (from ST-FCN affine on R, E)"  # their median


def test_another_size_of_volume_or_backbone_is_not_the_same_run():
    small = finished("experiment=mnist_3d", "dataset.distort.canvas=32", seconds=600.0)
    assert str(estimate(made("experiment=mnist_3d"), [small])) == (
        "~10 min (from ST-CNN 3-D affine on 32 voxels a side)"
    )
    light = finished("experiment=cub_2st_224", "dataset=cub50", seconds=600.0)
    assert estimate(made("experiment=cub_2st_224"), [light]) is None
    trained = finished("experiment=cub_2st_224", "backbone.weights=none", seconds=600.0)
    found = estimate(made("experiment=cub_2st_224"), [trained])
    assert found.seconds == pytest.approx(600.0) and found.near


def test_a_digit_is_as_good_as_another():
    runs = [finished("experiment=colocalisation", "images=t", f"dataset.digit={d}", seconds=60.0 + d)
            for d in range(5)]  # fmt: skip
    ours = made("experiment=colocalisation", "images=t", "dataset.digit=7")
    assert str(estimate(ours, runs)) == ("about 1 min (from T, translated on 0, 1, 2 and 2 more)")


def test_other_devices_count_only_where_there_is_none_and_are_named():
    ours = made("experiment=mnist_r", "model=fcn", "trainer=fast")
    there = finished(
        "experiment=mnist_r", "model=fcn", "trainer=fast", seconds=60.0, device="cpu: A, 2 threads"
    )
    assert str(estimate(ours, [there])) == "about 1 min (on cpu: A, 2 threads)"
    here = finished("experiment=mnist_p", "model=fcn", "trainer=fast", seconds=240.0)
    assert str(estimate(ours, [there, here])) == "~4 min (from FCN on P)"


def test_files_that_hold_no_result_say_nothing(tmp_path):
    result = finished("experiment=mnist_r", seconds=3.0)
    texts = [json.dumps(result.to_dict()), "{", "[]"]
    paths = [tmp_path / f"{i}.json" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    assert estimates.finished_runs([*paths, *paths, tmp_path / "none.json"]) == [result]
    untimed = finished("experiment=mnist_r", seconds=0.0)
    assert estimate(made("experiment=mnist_r"), [untimed]) is None


def test_what_its_own_checkpoint_has_done_is_taken_off(tmp_path):
    words = ["experiment=mnist_r", "trainer=smoke", f"output_dir={tmp_path}"]
    job = Job.of(configuration(words), words)
    runs = [finished("experiment=mnist_r", "trainer=smoke", seconds=100.0)]
    job.folder.mkdir(parents=True)
    lines = [json.dumps({"step": step}) for step in (50, 300)]  # of 1,200
    (job.folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3']))
    assert estimate(job, runs).seconds == pytest.approx(100.0)  # without a checkpoint it begins anew
    (job.folder / "last.pt").touch()
    assert estimate(job, runs).seconds == pytest.approx(75.0)
    assert Estimator(runs, HERE, TABLES)(job, whole=True).seconds == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("overrides", "threads", "cuda", "name"),
    [
        ((), 1, False, ("cpu", 1)),
        (("threads=3",), 1, False, ("cpu", 3)),
        (("threads=null", "device=cpu"), 1, True, ("cpu", 1)),
        (("device=auto",), 1, True, ("cuda", 1)),
    ],
)
def test_the_device_is_that_of_the_run(monkeypatch, overrides, threads, cuda, name):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(estimates, "device_name", lambda device, threads: (device.type, threads))
    assert estimates.device_of(Overrides.parse(overrides), threads) == name
