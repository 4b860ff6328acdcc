"""The tables against numbers worked out by hand, and every way in which results may not be shown."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.claims import claims_table, read_benchmarks
from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.report import (
    Table,
    cells,
    document,
    embed,
    headline,
    load_results,
    provenance,
    render,
    row_label,
    run_records,
    sheets,
    write_tables,
)
from experiments.report.wandb_tables import log_tables
from experiments.sections import CLAIMS, TABLES, distorted_mnist

ROOT = Path(__file__).resolve().parents[3]
TABLE = Table(
    name="small",
    title="Small",
    columns={"exp_a": "A", "exp_b": "B_1"},
    rows={("cnn", None): "CNN", ("st_cnn", "affine"): "ST-CNN affine"},
    paper={("cnn", None): {"exp_a": 1.2, "exp_b": 0.8}, ("st_cnn", "affine"): {"exp_a": 0.7}},
    source="a paper, Table 9",
)


def result(seed=0, error=0.7, *, config=None, **changes):
    """A result.json's content; config: changes to the resolved config."""
    out = {
        "schema": 1,
        "experiment": "exp_a",
        "dataset": "mnist",
        "model": "st_cnn",
        "transform": "affine",
        "trainer": "fast",
        "seed": seed,
        "metrics": {"test_error": error, "train_loss": 0.1},
        "width": 32,
        "parameters": 400_123,
        "iterations": 12_000,
        "wall_seconds": 3723.4,
        "images_per_second": 15_432.1,
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "versions": {"python": "3.12.0", "torch": "2.9.1"},
        "device": "Some GPU | 80 GB",
        "test_fingerprint": "ab" * 32,
    }
    out |= changes
    settings = {"width": None, "optimizer": {"name": "sgd", "lr": 0.01}} | (config or {})
    out["config"] = {"seed": out["seed"], "experiment": out["experiment"], **settings}
    out.setdefault("config_hash", json.dumps([out["config"], out["model"], out["transform"], out["trainer"]]))
    return out


@pytest.fixture
def runs(tmp_path):
    """Write results as published runs; returns the folder. Called again, it adds."""
    count = 0

    def write(*contents):
        nonlocal count
        for content in contents:
            path = tmp_path / "results" / "runs" / content["experiment"] / f"run{count:03}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
            count += 1
        return tmp_path / "results"

    return write


def row_of(text, label):
    """The cells of the Markdown line that starts with the label."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [part.strip() for part in line.strip("|").split("|")][1:]


# ---- mean, deviation, count ----


def test_mean_std_and_n_by_hand(runs):
    # mean (0.6 + 0.7 + 1.1) / 3 = 0.8; squares 0.04 + 0.01 + 0.09 = 0.14, over 2 = 0.07, root 0.264575
    folder = runs(result(2, 1.1), result(0, 0.6), result(1, 0.7))
    (cell,) = cells([TABLE], load_results([folder]))
    assert cell.n == 3 and cell.values == (0.6, 0.7, 1.1)
    assert cell.mean == pytest.approx(0.8, abs=1e-12)
    assert cell.std == pytest.approx(0.2645751311, abs=1e-9)
    ours = row_of(render([TABLE], load_results([folder])), "ST-CNN affine")[0]
    assert ours == "0.80 ± 0.26 (3)<br><sub>paper 0.7 · +0.10</sub>"


def test_the_mean_of_angles_is_circular(runs):
    table = dataclasses.replace(
        TABLE,
        metrics={"exp_a": "test_error"},
        angles=frozenset({"test_error"}),
        lower_is_better=None,
        paper={},
    )
    degrees = (130.0, 119.0, -95.0)
    (cell,) = cells([table], load_results([runs(*(result(seed, one) for seed, one in enumerate(degrees)))]))
    mean = stats.circmean(degrees, 180, -180)
    assert cell.mean == pytest.approx(mean) and cell.values == degrees
    # Around 152 degrees: -22, -33 and, the short way, 113.
    away = [one - mean for one in (130, 119, 265)]
    assert cell.std == pytest.approx(np.sqrt(np.square(away).sum() / 2))
    ours = row_of(render([table], load_results([runs()])), "ST-CNN affine")[0]
    assert ours == f"{mean:.0f} ± {cell.std:.0f} (3)"  # whole degrees


def test_one_run_has_no_deviation_and_few_seeds_are_marked(runs):
    folder = runs(
        result(0, 0.68), *(result(s, e, model="cnn", transform=None) for s, e in enumerate((1.0, 1.2)))
    )
    one, two = sorted(cells([TABLE], load_results([folder])), key=lambda cell: cell.n)
    assert one.std is None and two.std == pytest.approx(0.1414213562)
    text = render([TABLE], load_results([folder]))
    assert row_of(text, "ST-CNN affine")[0].startswith("0.68 (1)†<br>")
    assert row_of(text, "CNN")[0] == "1.10 ± 0.14 (2)†<br><sub>paper 1.2 · −0.10</sub>"
    assert "† fewer than 3 seeds." in text
    folder = runs(result(1), result(2), result(2, 1.1, model="cnn", transform=None))
    assert "†" not in render([TABLE], load_results([folder]))


def test_missing_cells_are_dashes_with_the_papers_number_where_there_is_one(runs):
    text = render([TABLE], load_results([runs(result())]))
    assert row_of(text, "CNN") == ["—<br><sub>paper 1.2</sub>", "—<br><sub>paper 0.8</sub>"]
    assert row_of(text, "ST-CNN affine")[1] == "—"


@pytest.mark.parametrize(
    ("error", "shown"),
    [(0.68, "−0.02"), (0.7, "0.00"), (0.699, "0.00"), (0.701, "0.00"), (0.75, "+0.05")],
)
def test_signed_difference_agrees_with_the_numbers_as_printed(runs, error, shown):
    text = render([TABLE], load_results([runs(result(0, error))]))
    assert row_of(text, "ST-CNN affine")[0].endswith(f"paper 0.7 · {shown}</sub>")


def test_best_of_a_column_is_bold_in_the_right_direction(runs):
    folder = runs(
        *(result(seed, 0.6) for seed in range(3)),
        *(result(seed, 1.3, model="cnn", transform=None) for seed in range(3)),
        *(result(seed, 0.9, experiment="exp_b") for seed in range(3)),
    )
    low = render([TABLE], load_results([folder]))
    assert row_of(low, "ST-CNN affine")[0].startswith("**0.60** ± 0.00 (3)")
    assert row_of(low, "ST-CNN affine")[1].startswith("0.90 ± 0.00 (3)")  # alone in its column
    assert "**Bold**: the lowest mean of its column, where it is of 3 seeds or more." in low
    high = render([Table(**{**vars(TABLE), "lower_is_better": False})], load_results([folder]))
    assert row_of(high, "CNN")[0].startswith("**1.30**") and "**0.60**" not in high


def test_a_best_mean_of_few_seeds_is_not_bold_and_no_other_is(runs):
    folder = runs(*(result(s, 1.3, model="cnn", transform=None) for s in range(3)), *map(result, range(2)))
    assert "**" not in render([TABLE], load_results([folder]))  # the best, 0.70, is of two seeds
    runs(result(2))
    assert row_of(render([TABLE], load_results([folder])), "ST-CNN affine")[0].startswith("**0.70**")


# ---- what never shares a cell ----


def test_schedules_are_never_mixed(runs):
    folder = runs(result(0, 0.6), result(1, 0.8), result(0, 0.4, trainer="paper", iterations=150_000))
    results = load_results([folder])
    assert {(c.trainer, c.n, round(c.mean, 6)) for c in cells([TABLE], results)} == {
        ("fast", 2, 0.7),
        ("paper", 1, 0.4),
    }
    text = render([TABLE], results)
    paper, fast = (
        text.index("### Small: schedule paper, 150,000"),
        text.index("### Small: schedule fast, 12,000 iter"),
    )
    assert paper < fast
    assert "0.40" in text[paper:fast] and "0.70 ±" not in text[paper:fast] and "0.40" not in text[fast:]


def test_a_column_of_another_length_and_every_precision_are_named(runs):
    folder = runs(
        result(0, iterations=8000, precision="fp32"),
        result(1, iterations=8000, precision="bf16"),
        result(0, model="cnn", transform=None, iterations=8000),
        result(0, experiment="exp_b"),
    )
    text = render([TABLE], load_results([folder]))
    assert "### Small: schedule fast, 8,000 iterations (B_1 12,000)\n" in text
    assert "4 runs, in bf16 and fp32 and unknown precision; device" in text
    runs(result(2, iterations=9000))
    assert "schedule fast, 8,000 / 9,000 / 12,000 iterations\n" in render([TABLE], load_results([folder]))


def test_other_dataset_stands_alone_without_the_papers_numbers(runs, tmp_path):
    folder = runs(result(0, 0.6), result(0, 5.0, dataset="digits"))
    mnist, digits = sheets([TABLE], load_results([folder]))
    assert mnist.dataset == "mnist" and digits.dataset == "digits" and digits.stem == "small-digits-fast"
    text = render([TABLE], load_results([folder])).split("### ")[2]
    assert "dataset digits" in text and "5.00 (1)†" in text and "—" in text and "<sub>" not in text
    assert "cannot be compared with the paper's" in text and "Paper:" not in text
    write_tables([folder], tmp_path / "out", [TABLE])
    head = (tmp_path / "out/tables/small-digits-fast.csv").read_text().splitlines()[0]
    assert "paper" not in head and "difference" not in head
    assert r"\scriptsize" not in (tmp_path / "out/tables/small-digits-fast.tex").read_text()


def test_smoke_runs_only_when_asked_for(runs):
    results = load_results([runs(result(0, 0.6), result(0, 88.0, trainer="smoke", iterations=20))])
    assert "88.00" not in document([TABLE], results) and "smoke" not in document([TABLE], results)
    shown = document([TABLE], results, include_smoke=True)
    assert "schedule smoke, 20 iterations" in shown and "88.00" in shown


def test_an_override_gets_a_row_of_its_own_marked_by_its_key(runs):
    plain = [result(seed, 0.6) for seed in range(3)]
    wide = [result(seed, 0.9, width=64, config={"width": 64}) for seed in range(3)]
    other = [result(seed, 0.5, experiment="exp_b") for seed in range(3)]
    results = load_results([runs(*plain, *wide, *other)])
    assert len(results) == 9
    assert {(c.column, c.overrides, c.n) for c in cells([TABLE], results)} == {
        ("exp_a", "width=null", 3),
        ("exp_a", "width=64", 3),
        ("exp_b", "width=null", 3),  # the split row is split in every column
    }
    text = render([TABLE], results)
    assert row_of(text, "ST-CNN affine [width=64]")[0].startswith("0.90 ± 0.00 (3)")
    assert row_of(text, "ST-CNN affine [width=64]")[1] == "—"
    assert row_of(text, "ST-CNN affine [width=null]")[1].startswith("0.50")


def test_nested_strings_and_absent_keys_mark_a_row_too(runs):
    adam = {"optimizer": {"name": "adam", "lr": 0.001}, "extra": "64"}
    results = load_results([runs(result(0, 0.6), result(0, 0.9, config=adam))])
    assert {c.overrides for c in cells([TABLE], results)} == {
        "extra not set, optimizer.lr=0.01, optimizer.name=sgd",
        'extra="64", optimizer.lr=0.001, optimizer.name=adam',
    }
    many = [result(0, 0.6, config={f"k{i}": v for i in range(9)}) for v in (1, 2)]
    many[1]["config"]["k8"] = 3
    labels = {c.overrides for c in cells([TABLE], load_results([runs(*many)]))}
    assert len(labels) == 4 and all("more (" in label for label in labels)


def test_rows_the_table_does_not_name_come_last(runs):
    text = render([TABLE], load_results([runs(result(0, 0.9, transform="attention"), result(0, 0.6))]))
    assert row_of(text, "ST-CNN attention")[0] == "0.90 (1)†"
    assert text.index("| ST-CNN attention") > text.index("| ST-CNN affine")
    assert row_label(("st_fcn", "tps")) == "ST-FCN TPS" and row_label(("cnn", None)) == "CNN"


def test_different_test_sets_in_a_column_are_footnoted(runs):
    same = render(
        [TABLE], load_results([runs(result(0), result(0, experiment="exp_b", test_fingerprint="ef" * 32))])
    )
    assert "‡" not in same  # another column is another test set
    folder = runs(result(1, test_fingerprint="cd" * 32))
    text = render([TABLE], load_results([folder]))
    assert "| A ‡ | B_1 |" in text
    assert "‡ A: 2 different test sets (fingerprints abababababab, cdcdcdcdcdcd)." in text
    folder = runs(result(0, trainer="smoke", test_fingerprint="11" * 32))
    assert "1111" not in render([TABLE], load_results([folder]))


# ---- files that are no results, and files that disagree ----


def test_identical_copies_count_once_and_overlapping_folders_are_read_once(runs, tmp_path):
    folder = runs(result(0), result(1))
    copy = tmp_path / "outputs" / "exp_a" / "seed_0" / "result.json"
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps(result(0), indent=2))
    (copy.parent / "other.json").write_text("not read")
    results = load_results([folder, folder / "runs", tmp_path / "outputs", copy])
    assert sorted(one.seed for one in results) == [0, 1]
    assert [one.seed for one in load_results([folder / "runs" / "exp_a"])] == [0, 1]
    assert [one.seed for one in load_results([tmp_path / "outputs"])] == [0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"metrics": {"test_error": 0.71, "train_loss": 0.1}}, "metrics"),
        ({"test_fingerprint": "cd" * 32}, "test_fingerprint"),
    ],
)
def test_two_files_about_one_run_that_disagree(runs, change, what):
    folder = runs(result(0), result(0, **change))
    with pytest.raises(
        UserError, match=rf"run00\d.json and .*run00\d.json are the same run but differ in {what}"
    ):
        load_results([folder])


def test_the_stored_configuration_says_which_run_it_is_and_the_stored_hash_does_not(runs):
    assert len(load_results([runs(result(0), result(0, config_hash="of an older version"))])) == 1
    assert (
        len(load_results([runs(result(0, config={"num_workers": 9}))])) == 2
    )  # the hash is that of the first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1,', "not readable as JSON"),
        (
            json.dumps({k: v for k, v in result().items() if k not in ("seed", "device")}),
            "missing seed, device",
        ),
        (json.dumps(result(schema=2)), "unknown schema 2; this code reads schema 1"),
        (json.dumps(result(seed="0")), 'seed is "0", which is of the wrong type'),
        (json.dumps(result(seed=True)), "seed is true, which is of the wrong type"),
        (json.dumps(result(transform=3)), "transform is 3, which is of the wrong type"),
        (json.dumps(result() | {"seed": 4}), "seed is 4, but config.seed is 0"),
    ],
)
def test_bad_files_are_named_in_one_sentence(runs, text, message):
    path = runs(result()) / "runs" / "exp_a" / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_results([path.parents[3]])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_outputs_may_be_called_runs(tmp_path):
    folder = tmp_path / "runs" / "exp_a" / "st_cnn-affine" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result(0)))
    (folder / "config.json").write_text('{"seed": 0}')
    (folder / "notes.json").write_text("not read")
    (tmp_path / "runs" / "compare").mkdir()
    (tmp_path / "runs" / "compare" / "landscape.json").write_text("[1]")  # what a tool writes there
    (tmp_path / "runs" / "study.json").write_text('{"trials": 3}')
    for given in (tmp_path, tmp_path / "runs", tmp_path / "runs" / "exp_a", folder):
        assert [one.path for one in load_results([given])] == [folder / "result.json"]
    (folder / "result.json").write_text("[1]")
    with pytest.raises(UserError, match=r"result\.json: not a result: its top level is not an object"):
        load_results([tmp_path / "runs"])
    with pytest.raises(UserError, match=r"config\.json: not a result"):
        load_results([folder / "config.json"])  # a file that is named is meant to be one


def test_bytes_that_are_no_text_and_folders_that_are_not_there(runs, tmp_path):
    path = runs(result()) / "runs" / "exp_a" / "bad.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bad.json: not readable"):
        load_results([path.parent])
    with pytest.raises(UserError, match="nowhere: there is no such"):
        load_results([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "metrics", [{}, {"test_error": None}, {"test_error": float("nan")}, {"test_error": "0.7"}]
)
def test_a_metric_that_is_no_number_is_an_error_not_a_gap(runs, metrics):
    results = load_results([runs(result(metrics=metrics))])
    with pytest.raises(UserError, match=r"run000.json: metrics.test_error is .*, not a finite number"):
        cells([TABLE], results)


# ---- the files ----


def five(runs):
    errors = (0.6, 0.7, 1.1)
    return runs(
        *map(result, range(3), errors),
        result(0, 1.25, model="cnn", transform=None),
        result(3, 0.8, git_dirty=True),
    )


def test_bytes_do_not_depend_on_order_place_or_time(runs, tmp_path):
    folder = five(runs)
    write_tables([folder], tmp_path / "one", [TABLE])
    other = tmp_path / "elsewhere" / "runs"
    other.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*.json"), reverse=True)):
        (other / f"{number}.json").write_bytes(path.read_bytes())
    _, paths = write_tables([other], tmp_path / "two", [TABLE])
    names = [path.relative_to(tmp_path / "two") for path in paths]
    assert [str(name) for name in names] == [
        "README.md",
        "tables/small-fast.csv",
        "tables/small-fast.tex",
        "tables/results.csv",
    ]
    files = ["runs/exp_a/run000.json", "4.json"]  # where each result is, below the given folder
    for folder, file in zip(("one", "two"), files, strict=True):
        lines = list(csv.DictReader(io.StringIO((tmp_path / folder / names[-1]).read_text())))
        assert file in [line.pop("path") for line in lines]
        (tmp_path / folder / names[-1]).write_text(f"{lines}\n")  # the paths alone say where the files are
    for name in names:
        text = (tmp_path / "one" / name).read_bytes()
        assert text == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in text and text.endswith(b"\n") and b"\r" not in text


def test_csv_parses_back_to_the_numbers(runs, tmp_path):
    write_tables([five(runs)], tmp_path / "out", [TABLE])
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out/tables/small-fast.csv").read_text())))
    assert [(line["model"], line["column"], line["n"]) for line in lines] == [
        ("cnn", "A", "1"),
        ("cnn", "B_1", "0"),
        ("st_cnn", "A", "4"),
        ("st_cnn", "B_1", "0"),
    ]
    # mean (0.6 + 0.7 + 1.1 + 0.8) / 4 = 0.8; squares 0.04 + 0.01 + 0.09 + 0 = 0.14, over 3, root 0.216025
    assert lines[2] | {"mean": "0.8000", "std": "0.2160", "paper": "0.7", "difference": "0.1000"} == lines[2]
    assert lines[2]["seeds"] == "0 1 2 3" and lines[2]["metric"] == "test_error"
    assert (lines[0]["mean"], lines[0]["std"], lines[0]["difference"]) == ("1.2500", "", "0.0500")
    assert (lines[1]["mean"], lines[1]["paper"], lines[1]["difference"]) == ("", "0.8", "")
    assert (lines[3]["mean"], lines[3]["paper"]) == ("", "")


def test_the_file_of_all_runs_has_a_line_a_run(runs, tmp_path):
    folder = runs(
        result(0, 0.6), result(1, 0.7, metrics={"test_error": 0.7, "test_iou": 0.5}, experiment="another")
    )
    write_tables([folder], tmp_path / "out", [TABLE])
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out/tables/results.csv").read_text())))
    other, one = lines
    wanted = {"experiment": "exp_a", "table": "Small", "row": "ST-CNN affine", "column": "A", "ours": "0.6"}
    wanted |= {"paper": "0.7", "test_error": "0.6", "train_loss": "0.1", "test_iou": "", "seed": "0"}
    wanted |= {"iterations": "12000", "wall_seconds": "3723.4", "device": "Some GPU | 80 GB"}
    wanted |= {"git_revision": "0123456789abcdef0123456789abcdef01234567", "git_dirty": "False"}
    wanted |= {"test_fingerprint": "ab" * 32, "torch": "2.9.1", "path": "runs/exp_a/run000.json"}
    assert one | wanted == one and float(one["difference"]) == pytest.approx(-0.1)
    assert other["test_iou"] == "0.5" and other["train_loss"] == "" and other["table"] == other["paper"] == ""
    read = run_records(load_results([folder]), [TABLE])
    assert read[1]["wall_seconds"] == 3723.4 and read[0]["paper"] is None
    assert read[1]["path"] == (folder / "runs/exp_a/run000.json").as_posix()


def test_latex_parses_back_to_the_numbers(runs, tmp_path):
    write_tables([five(runs)], tmp_path / "out", [TABLE])
    text = (tmp_path / "out/tables/small-fast.tex").read_text()
    assert text.startswith("% Generated by `python scripts/make_tables.py`")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    rows = [[part.strip() for part in line.removesuffix(r"\\").split("&")] for line in body]
    assert rows == [
        ["CNN", r"$1.25$ (1)$^\dagger$", "---"],
        ["", r"{\scriptsize paper 1.2, +0.05}", r"{\scriptsize paper 0.8}"],
        ["ST-CNN affine", r"$0.80 \pm 0.22$ (4)", "---"],
        ["", r"{\scriptsize paper 0.7, +0.10}", ""],
    ]
    assert r"& A & B\_1 \\" in text and r"\begin{tabular}{lcc}" in text and r"test error, \%" in text
    plain = re.sub(r"\\.", "", text)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    assert all(ord(char) < 128 for char in text)
    for name in re.findall(r"\\begin{(\w+)}", text):
        assert rf"\end{{{name}}}" in text


def test_provenance_has_a_line_a_run_with_what_a_sceptic_needs(runs):
    folder = five(runs)
    lines = provenance(load_results([folder]), [TABLE]).splitlines()
    assert len(lines) == 2 + 5 and len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    line = next(line for line in lines if "(dirty)" in line)
    wanted = [
        "exp_a",
        "ST-CNN affine; A",
        "error 0.80",
        "mnist",
        "st_cnn",
        "affine",
        "fast",
        "3",
        "32",
        "400,123",
        "12,000",
        "1:02:03",
        "15,432",
    ]
    wanted += [r"Some GPU \/ 80 GB", "2.9.1", "0123456 (dirty)", "`abababababab`"]
    assert [part.strip() for part in line.replace(r"\|", r"\/").strip("|").split("|")][:-1] == wanted


def test_readme_says_it_is_generated_and_names_runs_in_no_table(runs):
    text = document([TABLE], load_results([runs(result(), result(experiment="another"))]))
    assert text.startswith("<!-- Generated by `python scripts/make_tables.py`; never edited by hand. -->")
    assert "[CSV](tables/small-fast.csv)" in text and "In no table above: the runs of another." in text
    alone = document([TABLE], load_results([runs(result(experiment="another"))])[:1])
    assert "No run here belongs to a table yet." in alone


def test_nothing_found_writes_nothing_and_old_tables_go_when_their_results_do(runs, tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"Nothing to report: there is no result below .*empty"):
        write_tables([empty], out, [TABLE])
    assert not out.exists()
    smoke = runs(result(trainer="smoke"))
    write_tables([smoke], out, [TABLE], include_smoke=True)
    (out / "tables" / "mine.tex").write_text("by hand")
    (out / "tables" / "mine.csv").write_text("by hand")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(UserError, match="only results of the smoke trainer below"):
        write_tables([smoke], out, [TABLE])
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    write_tables([runs(result())], out, [TABLE])
    names = {path.name for path in (out / "tables").iterdir()}
    assert names == {"mine.tex", "mine.csv", "small-fast.tex", "small-fast.csv", "results.csv"}


def test_the_command_prints_tables_and_fails_in_one_sentence(runs, tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs(*(result(seed, 0.5, experiment="mnist_rts") for seed in range(3)))
    status, said, errors = script("make_tables.py")  # the defaults: results -> results
    assert status == 0, errors
    assert row_of(said, "ST-CNN affine")[1] == "0.50 ± 0.00 (3)<br><sub>paper 0.5 · 0.00</sub>"
    assert [Path(line).as_posix() for line in said.splitlines()[-4:]] == [
        "results/README.md",
        "results/tables/table1-fast.csv",
        "results/tables/table1-fast.tex",
        "results/tables/results.csv",
    ]
    readme = (tmp_path / "results" / "README.md").read_bytes()
    (tmp_path / "results" / "runs" / "mnist_rts" / "bad.json").write_text("{")
    status, said, errors = script("make_tables.py", "results")
    assert status == 2 and said == ""
    assert errors.count("\n") == 1 and "bad.json" in errors
    assert (tmp_path / "results" / "README.md").read_bytes() == readme


# ---- the front page ----

HEADLINE_ROWS = (("cnn", None), ("st_cnn", "affine"))


def test_headline_shows_mean_deviation_n_and_paper_and_bold_from_three_seeds_on(runs):
    folder = runs(
        *(result(seed, error) for seed, error in enumerate((0.6, 0.7, 1.1))),  # as in the test by hand above
        result(0, 1.3, model="cnn", transform=None),
        result(
            0, 0.5, model="cnn", transform=None, experiment="exp_b"
        ),  # the best of its column, of one seed
        result(0, 0.9, experiment="exp_b"),
        result(0, 0.1, model="fcn", transform=None),  # not a row of the headline
        result(0, 0.1, experiment="another"),
        result(0, 0.1, dataset="digits"),
    )
    text = headline(TABLE, load_results([folder]), HEADLINE_ROWS)
    assert text.splitlines()[:4] == [
        "|  | A | B_1 |",
        "|:--|:-:|:-:|",
        "| CNN | 1.30 (1)<br><sub>paper 1.2</sub> | 0.50 (1)<br><sub>paper 0.8</sub> |",
        "| ST-CNN affine | **0.80 ± 0.26** (3)<br><sub>paper 0.7</sub> | 0.90 (1) |",
    ]
    assert text.splitlines()[4] == "" and text.splitlines()[5].startswith(
        "Schedule `fast`, 12,000 iterations: "
    )


def test_headline_is_of_the_fuller_schedule_and_of_the_papers_where_both_are_as_full(runs):
    folder = runs(result(), result(experiment="exp_b"), result(trainer="paper", error=0.4))
    assert "Schedule `fast`" in headline(TABLE, load_results([folder]), HEADLINE_ROWS)
    folder = runs(result(trainer="paper", error=0.4, experiment="exp_b"), result(1, trainer="smoke"))
    text = headline(TABLE, load_results([folder]), HEADLINE_ROWS)
    assert "Schedule `paper`" in text and row_of(text, "ST-CNN affine")[1] == "0.40 (1)"
    assert row_of(text, "CNN") == ["—<br><sub>paper 1.2</sub>", "—<br><sub>paper 0.8</sub>"]


def test_headline_keeps_configurations_apart(runs):
    folder = runs(*(result(0, 0.6 + width / 1000, config={"width": width}) for width in (32, 64)))
    text = headline(TABLE, load_results([folder]), HEADLINE_ROWS)
    assert row_of(text, "ST-CNN affine [width=32]")[0] == "0.63 (1)<br><sub>paper 0.7</sub>"
    assert row_of(text, "ST-CNN affine [width=64]")[0] == "0.66 (1)<br><sub>paper 0.7</sub>"


def test_headline_of_nothing_is_one_sentence(runs):
    with pytest.raises(UserError, match=r"nothing to show: no published result is in Small\.$"):
        headline(TABLE, load_results([runs(result(experiment="another"))]), HEADLINE_ROWS)


def test_a_page_gets_its_tables_and_one_without_a_place_is_refused(runs, tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs(result(experiment="mnist_rts"))
    page = tmp_path / "front.md"
    page.write_text(
        "# A\n<!-- headline -->\nold\n<!-- /headline -->\n<!-- claims -->\nold\n<!-- /claims -->\nB\n"
    )
    status, _, errors = script("make_tables.py", "--page", "front.md")
    assert status == 0, errors
    text = page.read_text()
    assert row_of(text, "ST-CNN affine")[1] == "0.70 (1)<br><sub>paper 0.5</sub>"
    assert text.startswith("# A\n<!-- headline -->\n|  | R | RTS | P | E |\n") and "\nold\n" not in text
    assert "\n| [2](results/claims.md#claim-2) | " in text and text.endswith(" |\n<!-- /claims -->\nB\n")
    for marks in ("no marks", "<!-- headline -->\n<!-- /headline -->\n"):
        page.write_text(marks)
        status, _, errors = script("make_tables.py", "--page", "front.md")
        assert status == 2 and "front.md has no place for a table" in errors and errors.count("\n") == 1


# ---- distorted MNIST ----


def test_the_papers_numbers_of_distorted_mnist():
    paper = distorted_mnist.PAPER
    columns = ("mnist_r", "mnist_rts", "mnist_p", "mnist_e")
    assert [paper["fcn", None][name] for name in columns] == [2.1, 5.2, 3.1, 3.2]
    assert [paper["st_cnn", "tps"][name] for name in columns] == [0.7, 0.5, 0.8, 1.1]
    assert [paper["st_fcn", "projective"][name] for name in columns] == [1.3, 0.9, 1.4, 2.6]
    tc = [("fcn", None), ("cnn", None), ("st_fcn", "affine"), ("st_cnn", "affine")]
    assert [paper[row]["mnist_tc"] for row in tc] == [13.2, 3.5, 2.0, 1.7]
    table1, cluttered, *_ = distorted_mnist.SECTION.tables
    assert (table1.name, cluttered.name) == ("table1", "tc")
    assert list(table1.columns) == list(columns) and len(table1.rows) == 8 and list(cluttered.rows) == tc
    assert all(set(columns) <= set(paper[row]) for row in table1.rows)
    assert all(row_label(row) == label for row, label in table1.rows.items())
    # the paper's own claims hold in them: a spatial transformer beats its base network in every column
    for name in columns:
        assert paper["st_cnn", "affine"][name] < paper["cnn", None][name]
        assert paper["st_fcn", "affine"][name] < paper["fcn", None][name]


def test_networks_beyond_the_paper_have_a_table_of_their_own(runs):
    own = {"experiment": "mnist_r", "model": "st_cnn_bn", "transform": "affine"}
    results = load_results(
        [runs(result(**own), result(experiment="mnist_r", model="st_cnn", transform="affine"))]
    )
    made = {sheet.table.name: sheet for sheet in sheets(distorted_mnist.SECTION.tables, results)}
    assert {name: [cell.row for cell in sheet.cells.values()] for name, sheet in made.items()} == {
        "table1": [("st_cnn", "affine")],
        "beyond": [("st_cnn_bn", "affine")],
    }
    assert "it has none of these networks" in made["beyond"].notes()[1]
    beyond = distorted_mnist.BEYOND
    assert beyond.priority is not None and set(beyond.priority) == set(beyond.rows)


def test_embed_puts_the_tables_between_the_marks_and_touches_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- tables -->\nold\n<!-- /tables -->\nB\n")
    assert embed(page, "new\n\n")
    assert page.read_text() == "# A\n<!-- tables -->\nnew\n<!-- /tables -->\nB\n"
    page.write_text("# A\n<!-- tables -->\nno end\n")
    assert not embed(page, "new")
    assert page.read_text() == "# A\n<!-- tables -->\nno end\n"


def test_the_published_tables_are_those_of_the_published_runs(tmp_path):
    _, paths = write_tables([ROOT / "results"], tmp_path, list(TABLES.values()))
    made = {path.relative_to(tmp_path): path.read_bytes() for path in paths}
    held = {path.relative_to(ROOT / "results") for path in (ROOT / "results" / "tables").iterdir()}
    assert {path for path in made if path.parts[0] == "tables"} == held
    for path, content in made.items():
        assert (ROOT / "results" / path).read_bytes() == content, f"{path} is out of date: make tables"
    page = tmp_path / "front.md"
    page.write_text((ROOT / "README.md").read_text())
    results = load_results([ROOT / "results"])
    said = claims_table(CLAIMS, results, read_benchmarks(ROOT / "results"), "results/claims.md")
    assert embed(page, headline(TABLES["table1"], results), "headline") and embed(page, said, "claims")
    assert page.read_text() == (ROOT / "README.md").read_text(), "README.md is out of date: make tables"


def test_every_published_run_names_its_commit_and_shares_its_test_set():
    results = load_results([ROOT / "results"])
    assert results
    for result in results:
        assert re.fullmatch(r"[0-9a-f]{40}", result.git_revision or ""), result.path
        assert str(Path.home()) not in result.path.read_text()
        stem = f"{result.path.parent.name}/{result.path.stem}"
        assert stem.startswith(f"{result.experiment}/{result.model}-"), result.path
        assert stem.endswith(f"-seed_{result.seed}"), result.path
    for sheet in sheets(list(TABLES.values()), results):
        prints: dict[tuple[object, str], set[str]] = {}
        for (row, _, column), cell in sheet.cells.items():
            where = (None if sheet.table.same_test_set else row, column)
            prints.setdefault(where, set()).update(result.test_fingerprint for result in cell.results)
        assert all(len(some) == 1 for some in prints.values()), sheet.heading


def test_a_run_beside_the_paper(runs):
    table = distorted_mnist.TABLE1

    def made(**changes):
        return Result.from_dict(result(**changes))

    line = table.against_paper(made(error=0.75, experiment="mnist_rts"))
    assert (line["row"], line["column"], line["paper"], line["ours"]) == ("ST-CNN affine", "RTS", 0.5, 0.75)
    assert line["difference"] == pytest.approx(0.25)
    digits = table.against_paper(made(dataset="digits", experiment="mnist_rts"))
    assert digits["paper"] is None and digits["difference"] is None and digits["ours"] == 0.7
    unknown = table.against_paper(made(model="mlp", transform=None, experiment="mnist_rts"))
    assert unknown["row"] == "MLP" and unknown["paper"] is None
    assert table.against_paper(made(experiment="mnist_tc")) is None
    assert table.against_paper(made(metrics={"test_loss": 1.0}, experiment="mnist_rts")) is None


def test_every_published_run_stands_in_the_table_of_its_experiment():
    for result in load_results([ROOT / "results"]):
        tables = [name for name, table in TABLES.items() if table.against_paper(result) is not None]
        # Two tables are of the same runs: all poses, and those of each class.
        assert len(tables) == 1 or tables == ["upright", "upright_classes"], result.path


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_whole_tables_go_to_wandb_as_their_csv_files_say(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    command = log_tables(
        [ROOT / "results" / "runs" / "mnist_rts"], [distorted_mnist.TABLE1], mode="offline", root=tmp_path
    )
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert command == f"wandb sync {folder}"
    (file,) = folder.glob("files/media/table/tables/table1-fast_*.table.json")
    held = json.loads(file.read_text())
    lines = [dict(zip(held["columns"], line, strict=True)) for line in held["data"]]
    published = list(
        csv.DictReader(io.StringIO((ROOT / "results" / "tables" / "table1-fast.csv").read_text()))
    )
    assert len(lines) == len(published) == 8 * 4
    for ours, theirs in zip(lines, published, strict=True):
        if theirs["experiment"] == "mnist_rts":
            assert {key: "" if value is None else value for key, value in ours.items()} == {
                key: float(text) if text and key in ("mean", "std", "n", "paper", "difference") else text
                for key, text in theirs.items()
            }
