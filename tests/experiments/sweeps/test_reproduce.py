"""The reproduction script: what is missing, in which order, published once, stopped and continued."""

import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.engine import rundir
from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.identity import identity, transform_name
from experiments.engine.result import Result
from experiments.report import details
from experiments.sections import TABLES
from experiments.sweeps import overview as overview_module
from experiments.sweeps import plan as plan_module
from experiments.sweeps import reproduce
from experiments.sweeps.job import Outcome, exit_status, unfinished
from experiments.sweeps.publish import publish

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("tree")

EMBEDDING = "mnist_r/cnn-fast-seed_0"


def plan(tmp_path, table="tc", trainer="smoke", seeds=(0, 1)):
    extra = [f"output_dir={tmp_path}/outputs", "wandb.mode=disabled"]
    return plan_module.plan(table, trainer=trainer, seeds=seeds, results=tmp_path / "results", extra=extra)


def kinds(outcomes):
    return {one.label: one.kind for one in outcomes}


def test_a_table_is_its_cells_seed_by_seed_the_most_informative_first(tmp_path):
    runs = plan(tmp_path)
    assert [run.label for run in runs] == [
        f"mnist_tc/{row}-smoke-seed_{seed}"
        for seed in (0, 1)
        for row in ("st_cnn-affine", "cnn", "st_fcn-affine", "fcn")
    ]
    assert runs[0].overrides.words[:3] == ["experiment=mnist_tc", "model=st_cnn", "transform=affine"]
    assert runs[1].overrides.words[1:3] == ["model=cnn", "trainer=smoke"]
    assert [run.identity for run in runs] == [identity(configuration(run.overrides.words)) for run in runs]
    assert len({run.published for run in runs}) == len(runs)


def test_what_is_not_the_papers_comes_last(tmp_path, monkeypatch):
    rows = ("st_cnn_bn-affine", "st_cnn_iterated-affine", "st_cnn_shared-affine", "cnn_bn")
    beyond = [f"{column}/{row}-smoke-seed_0" for row in rows for column in ("mnist_r", "mnist_rts")]
    assert [run.label for run in plan(tmp_path, "beyond", seeds=(0,))] == beyond
    some = {name: plan_module.TABLES[name] for name in ("beyond", "tc")}  # whatever their order
    monkeypatch.setattr(plan_module, "TABLES", some)
    planned = [run.label for run in plan(tmp_path, "all", seeds=(0,))]
    assert len(planned) == 4 + 8 and planned[4:] == beyond


def test_missing_are_those_without_a_result_of_this_very_configuration(tmp_path, finish, trainings):
    runs = trainings.of(plan(tmp_path))
    finish(runs[0], "outputs")
    finish(runs[1], "results")
    finish(replace(runs[3], published=runs[2].published), "results")  # another run's
    assert [job.label for job in unfinished(runs)] == [run.label for run in runs[2:]]
    said = []
    overview_module.overview(runs, report=said.append)
    assert not runs[0].published.exists()  # it writes nothing
    assert "0 of 4" in said[0]  # a cell is filled when all of its seeds are
    finish(runs[4], "outputs")
    overview_module.overview(runs, report=said.append)
    assert "1 of 4" in said[-3]


def test_finished_runs_are_published_one_file_each(tmp_path, finish):
    runs = plan(tmp_path)
    result = finish(runs[0])
    for name in ("examples.png", "curves.png", "confusion.png", "batch.png"):
        (runs[0].folder / name).touch()
    assert publish(runs) == [runs[0].published]
    assert Result.read(runs[0].published) == result
    pictures = [path.name for path in (tmp_path / "results" / "figures").rglob("*.png")]
    assert pictures == [f"{runs[0].published.stem}-examples.png"]  # the others are drawn of what is published
    assert publish(runs) == []
    shutil.rmtree(tmp_path / "outputs")
    assert runs[0].result() == result


def test_results_of_code_that_is_not_committed_are_not_published(tmp_path, finish, tree, trainings):
    runs, said = trainings.of(plan(tmp_path, seeds=(0,))), []
    finish(runs[0], dirty=True)
    finish(runs[1], "results", dirty=True)
    finish(runs[1], dirty=True)
    before = runs[1].published.read_bytes()
    assert publish(runs, said.append) == [] and not runs[0].published.exists()
    assert len(said) == 1 and said[0].startswith(f"{runs[0].label} is not published: its code had changes")
    assert runs[1].published.read_bytes() == before  # it stays
    tree["git_dirty"] = True
    with pytest.raises(UserError, match="give --no-publish to train without publishing"):
        reproduce.reproduce(runs, report=said.append)
    with pytest.raises(UserError, match="give --no-publish"):
        reproduce.launch(runs, "local", report=said.append)
    assert trainings == []
    outcomes = reproduce.reproduce(runs, publishing=False, report=said.append)
    assert len(trainings) == 2 and exit_status(outcomes) == 0
    assert not any(run.published.exists() for run in runs if run is not runs[1])


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return plan(tmp_path_factory.mktemp("all"), "all", "fast", (0, 1))  # a tenth of a second a cell


def test_all_is_every_table_seed_by_seed_and_row_by_row_no_run_twice(everything):
    runs = everything
    assert [run.seed for run in runs] == [0] * (len(runs) // 2) + [1] * (len(runs) // 2)
    first = [run.published.parent.name for run in runs if run.seed == 0]
    assert first[:10] == [
        "mnist_r",
        "mnist_rts",
        "mnist_p",
        "mnist_e",
        "mnist_tc",
        "mnist_p_literal",
        "mnist_e_corners",
        "upright",
        "mnist_addition",
        "colocalisation",
    ]
    labels = [run.label for run in runs]
    assert len({*labels}) == len(runs) == 2 * (8 * 4 + 4 + 2 * 4 + 6 + 8 + 2 * 10 + 6 + 2 * 2 + 4 * 2)
    order = [run.label for run in unfinished(runs)]  # in which they are trained
    crops = next(i for i, label in enumerate(order) if label.startswith("colocalisation/"))
    # the network that describes crops is a cell of Table 1, and is not planned twice
    assert set(order) == set(labels) and order.index(EMBEDDING) < crops


def test_a_required_run_is_planned_before_those_that_need_it(tmp_path, finish, trainings):
    runs = trainings.of(plan(tmp_path, "colocalisation", "paper", (0,)))
    needed = runs[0].requires
    assert {one.folder for run in runs for one in run.requires} == {needed[0].folder}
    assert needed[0].label == EMBEDDING and needed[0].published is None
    assert [job.label for job in unfinished(runs)] == [needed[0].label, *(run.label for run in runs)]
    said = []
    overview_module.overview(runs, listed=True, report=said.append)
    assert any(line.startswith(f"  missing  {needed[0].label}") for line in said)
    outcomes = reproduce.reproduce(runs[:3], at_once=2, report=said.append)
    assert [job.label for job, _ in trainings] == [needed[0].label, *(run.label for run in runs[:3])]
    assert {*kinds(outcomes).values()} == {"done"} and runs[0].published.exists()
    assert not (tmp_path / "results" / "runs" / "mnist_r").exists()
    assert unfinished(runs[:3]) == []


def test_what_a_failed_run_was_required_for_stays_open(tmp_path, trainings):
    runs = trainings.of(plan(tmp_path, "colocalisation", "paper", (0,))[:2])
    trainings.end = lambda job: 1
    outcomes = reproduce.reproduce(runs, budget=1000.0, report=lambda text: None)
    assert len(trainings) == 1
    assert [one.kind for one in outcomes] == ["failed", "open", "open"]
    assert outcomes[1].reason == f"needs {EMBEDDING}, which is failed"
    assert exit_status(outcomes, budget=True) == 1


def test_a_data_set_goes_with_the_tables_of_its_kind(tmp_path, monkeypatch):
    some = {name: plan_module.TABLES[name] for name in ("tc", "birds", "3d")}
    monkeypatch.setattr(plan_module, "TABLES", some)

    def tables(dataset, table="all"):
        runs = plan_module.plan(
            table, trainer="smoke", seeds=[0], results=tmp_path / "results", dataset=dataset
        )
        return {run.cell[0] for run in runs}

    assert tables("toy_birds") == {"birds"}
    with pytest.raises(UserError, match="is not of the kind of images that the table tc is about"):
        tables("cub50", "tc")
    with pytest.raises(UserError, match="that any table is about"):
        tables("own_images")


def test_a_failure_is_said_in_its_sentence_and_the_rest_goes_on(tmp_path, trainings):
    runs, said = trainings.of(plan(tmp_path, seeds=(0,))), []

    def end(job):
        if job is not runs[1]:
            return 0
        job.folder.mkdir(parents=True)
        (job.folder / rundir.FAILURE).write_text("There are no images: python scripts/prepare_data.py cub\n")
        return 2

    trainings.end = end
    outcomes = reproduce.reproduce(runs, at_once=2, report=said.append)
    assert list(kinds(outcomes).values()).count("done") == 3 and exit_status(outcomes) == 1
    sentence = f"failed  {runs[1].label}  There are no images: python scripts/prepare_data.py cub"
    assert sentence in said and sentence in said[-1]


def test_predictions_and_curves_are_published_too_also_later(tmp_path, finish):
    run = plan(tmp_path)[0]
    finish(run)
    publish([run])
    file = tmp_path / "results" / "details" / "mnist_tc" / f"{run.published.stem}.npz"
    file.unlink()
    torch.save(torch.tensor([1, 2, 3], dtype=torch.uint8), run.folder / "predictions.pt")
    (run.folder / "metrics.jsonl").write_text('{"step": 2, "train/error": 50.0}\n')
    assert publish([run]) == [] and file.exists()
    assert details.predictions(run.published).tolist() == [1, 2, 3]
    assert details.curves(run.published) == {"train/error": {2: 50.0}}
    file.unlink()
    finish(run, error=2.0)  # another's predictions are not this result's
    publish([run])
    assert not file.exists()


def test_a_dry_run_says_how_long_how_known_and_the_sum(tmp_path, monkeypatch, finish):
    monkeypatch.setattr(overview_module, "device_of", lambda *_: "here")
    runs = plan(tmp_path, seeds=(0, 1))
    finish(runs[0], "results", seconds=7200.0)
    finish(runs[3], "outputs", seconds=1200.0, device="there")
    said = []
    overview_module.overview(runs, at_once=2, listed=True, report=said.append)
    assert said[0].splitlines()[1].split()[-7:] == ["0", "of", "4", "6", "2.3", "h", "4"]
    assert said[1] == "In all 2.3 h of runs on here, 70 min with 2 at a time; unknown: 4 of 6 runs."
    assert said[2:] == [
        f"  missing  {runs[1].label}  unknown",
        f"  missing  {runs[2].label}  unknown",
        f"  missing  {runs[4].label}  about 2.0 h",
        f"  missing  {runs[5].label}  unknown",
        f"  missing  {runs[6].label}  unknown",
        f"  missing  {runs[7].label}  about 20 min (on there)",
    ]
    overview_module.overview(runs, at_once=2, report=said.append)
    assert said[-1] == "Each run: --list." and runs[1].label not in "".join(said[8:])


def test_a_budget_runs_what_fits_and_says_what_is_left(tmp_path, finish, trainings):
    runs = trainings.of(plan(tmp_path))
    finish(runs[0], seconds=1e6)  # so seed 1 of this cell is known not to fit
    trainings.end = lambda job: 1 if job is runs[1] else 0
    outcomes = reproduce.reproduce(runs, budget=3600, report=lambda _: None)
    assert [label for label, kind in kinds(outcomes).items() if kind == "failed"] == [runs[1].label]
    assert all(0 < how["timeout"] <= 3600 for _, how in trainings)
    assert trainings[-1][0] is runs[4]  # last of all, since nothing that fits is left
    assert all(run.published.exists() for run in runs if run is not runs[1])


def test_several_at_a_time_each_once_and_what_each_ended_with_is_said(tmp_path, trainings):
    runs, said, now, most = trainings.of(plan(tmp_path)), [], [], []

    def end(job):
        now.append(job)
        most.append(len(now))
        time.sleep(0.05)
        now.remove(job)
        if job is runs[3]:
            job.folder.mkdir(parents=True)
            (job.folder / "train.log").write_text("step 1\nThe loss is nan: lower the learning rate.\n")
            return 1
        return 0

    trainings.end = end
    outcomes = reproduce.reproduce(runs, budget=60, at_once=2, report=said.append)
    assert max(most) == 2 and len(most) == len(runs)
    assert all(how["share"] == 2 and how["log"] == job.folder / "train.log" for job, how in trainings)
    assert sorted(kinds(outcomes).values()) == ["done"] * 7 + ["failed"]
    assert f"done    {runs[0].label}  test_error 1.00%" in said
    assert f"failed  {runs[3].label}  The loss is nan: lower the learning rate." in said


def test_no_budget_left_starts_nothing_and_is_no_failure(tmp_path, trainings):
    said = []
    outcomes = reproduce.reproduce(trainings.of(plan(tmp_path)), budget=0, report=said.append)
    assert [one.kind for one in outcomes] == ["open"] * 8 and trainings == []
    assert said[-1].splitlines()[-2] == "8 open."
    assert exit_status(outcomes, budget=True) == 0 and exit_status(outcomes) == 1


@pytest.mark.parametrize(
    ("found", "status"),
    [(["done", "skipped"], 0), (["done", "failed"], 1), (["skipped", "open"], 1), ([], 0)],
)
def test_exit_statuses(found, status):
    assert exit_status([Outcome("a", kind) for kind in found]) == status


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (None, float("inf"))]
)
def test_budgets(text, seconds):
    assert reproduce.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "", "2 h", "1m1h", "-5m"])
def test_bad_budgets(text):
    with pytest.raises(UserError, match="write 90s, 30m, 2h or 1h30m"):
        reproduce.parse_budget(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tc", "--seeds", "a"], "is not a list of seeds"),
        (["tc", "--seeds", "\N{SUPERSCRIPT TWO}"], "is not a list of seeds"),
        (["tc", "--trainer", "fats"], "choose one of fast, paper, paper_addition, paper_birds, smoke"),
        (["tc", "optimizer.lr=1"], "would change what a cell measures"),
        (["tc", "--budget", "soon"], "is not a time"),
        (["tc", "--jobs", "0"], "is a whole number from 1"),
        (["tc", "--launcher", "local", "--jobs", "2"], "leave them out with --launcher"),
        (["tc", "--launcher", "local", "--budget", "1h"], "leave them out with --launcher"),
        (["tc", "hydra.launcher.partition=gpu"], "hydra.launcher.partition=gpu is a launcher's"),
        (["tc", "--dataset", "toy_birds"], "is not of the kind of images"),
    ],
)
def test_the_scripts_errors_are_one_sentence(script, arguments, message):
    status, _, said = script("reproduce.py", *arguments)
    assert (status, said.count("\n")) == (2, 1)
    assert message in said


def test_what_a_cell_trains_stands_in_that_cell(everything):
    measured = {metric for one in TABLES.values() for metric in (one.metric, *one.metrics.values())}
    seen = set()
    for job in everything:
        result = SimpleNamespace(
            experiment=job.cfg.experiment,
            model=job.cfg.model.name,
            transform=transform_name(job.cfg),
            config=job.identity,
            metrics=dict.fromkeys(measured, 0.0),
        )
        name, row, column = job.cell
        place = TABLES[name].place(result)
        assert place is not None and place[0] == row
        assert column in (TABLES[name].metrics or place[1:])  # columns may be metrics of the same run
        seen.add(name)
        if name == "upright_classes":  # of the same runs
            place = TABLES["upright"].place(result)
            assert place is not None and place[0] == row
            seen.add("upright")
    assert seen == {*TABLES}


def test_a_launcher_gets_the_missing_runs_as_one_sweep(tmp_path, monkeypatch, finish):
    runs = plan(tmp_path)[:4]
    finish(runs[0])
    commands, listed = [], []

    def sweep(command, **_):
        commands.append(command)
        listed.extend(Path(command[3].removeprefix("hydra.sweeper.file=")).read_text().splitlines())
        finish(runs[1])
        runs[2].folder.mkdir(parents=True)
        (runs[2].folder / rundir.FAILURE).write_text("too large\n")
        return SimpleNamespace(returncode=status)

    status = 1
    monkeypatch.setattr(reproduce.subprocess, "run", sweep)
    settings = ["hydra.launcher.partition=gpu"]
    with pytest.raises(UserError, match="There is no launcher 'cloud': choose one of local"):
        reproduce.launch(runs, "cloud", settings)
    outcomes = reproduce.launch(runs, "local", settings, report=lambda text: None)
    assert [one.kind for one in outcomes] == ["skipped", "done", "failed", "open"]
    assert exit_status(outcomes) == 1
    assert commands[0][1:3] == ["train.py", "-m"]
    assert commands[0][4:] == ["launcher=local", "hydra.launcher.partition=gpu"]
    assert [shlex.split(line) for line in listed] == [run.overrides.words for run in runs[1:]]
    assert runs[1].published.exists()
    status = 130
    runs[2].folder.joinpath(rundir.FAILURE).unlink()
    runs[2].folder.rmdir()
    with pytest.raises(KeyboardInterrupt):
        reproduce.launch(runs, "local", settings, report=lambda text: None)
