"""Verdicts on synthetic results, whose statistics come from scipy or by hand, and the published page."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.claims import claims_page, claims_table, label, read_benchmarks, write_claims
from experiments.analysis.significance import keep_right
from experiments.analysis.verdicts import FAILS, HOLDS, OPEN, judge
from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.report import Claim, Level, Ratio, Table, details, gain_in, load_results, runs_in
from experiments.sections import CLAIMS
from experiments.sections.birds import head_and_body

ROOT = Path(__file__).resolve().parents[3]
ST, CNN = ("st_cnn", "affine"), ("cnn", None)
TABLE = Table(
    name="small",
    title="Small",
    columns={"exp_a": "A", "exp_b": "B"},
    rows={ST: "ST-CNN affine", CNN: "CNN"},
    paper={ST: {"exp_a": 0.7}, CNN: {"exp_a": 1.2}},
    source="nowhere",
)
BETTER, EQUAL, NOT_WORSE = (gain_in(TABLE, ST, CNN, "exp_a", *b) for b in ((), (-0.2, 0.2), (-0.2, math.inf)))


def runs(row, errors, seeds=None, *, config=None, folder=Path("results"), **changes):
    """A run a seed, as published results."""
    (model, transform), found = row, []
    for seed, error in zip(seeds or range(len(errors)), errors, strict=True):
        held = {
            "experiment": "exp_a", "dataset": "mnist", "trainer": "fast", "iterations": 9, "test_fingerprint": "ab",
            "width": 1, "parameters": 1, "wall_seconds": 1.0, "images_per_second": 1.0, "git_revision": "0" * 40,
            "git_dirty": False, "versions": {}, "device": "cpu", "config_hash": "",
            "metrics": {"test_error": error},
        } | changes  # fmt: skip
        stem = f"{model}-{held['trainer']}-seed_{seed}"
        own = {"seed": seed, "model": {"name": model}, "optimizer": {"lr": 0.1}} | (config or {})
        path = folder / "runs" / held["experiment"] / f"{stem}.json"
        found.append(Result(model=model, transform=transform, seed=seed, config=own, path=path, **held))
    return found


def only(part, results, benchmarks=None):
    """The finding about one part in the only setting."""
    (judgement,) = judge(Claim(1, "It is so.", "nowhere", (part,)), results, benchmarks or {})
    (finding,) = judgement.findings
    assert judgement.verdict == finding.verdict
    return finding


def test_the_interval_of_the_gain_is_scipys():
    st, cnn = [0.71, 0.64, 0.80, 0.69], [1.21, 1.10, 1.34, 1.02]
    finding = only(BETTER, runs(ST, st) + runs(CNN, cnn))
    expected = stats.ttest_rel(cnn, st).confidence_interval(0.95)
    assert (finding.number.low, finding.number.high) == pytest.approx((expected.low, expected.high))
    assert finding.number.middle == pytest.approx(0.4575) and finding.number.n == 4
    expected = stats.ttest_1samp(st, 0).confidence_interval(0.95)
    assert (finding.means[0].low, finding.means[0].high) == pytest.approx((expected.low, expected.high))
    assert finding.verdict == HOLDS and finding.reason == "" and len(finding.results) == 8


@pytest.mark.parametrize(
    ("part", "gains", "verdict", "reason"),
    [
        (BETTER, (0.4, 0.5, 0.6), HOLDS, ""),
        (BETTER, (-0.4, -0.5, -0.6), FAILS, ""),
        (BETTER, (-0.4, 0.5, 0.6), OPEN, "the interval includes 0"),
        (BETTER, (0.0, 0.0, 0.0), OPEN, "the interval includes 0"),
        (BETTER, (0.5, 0.5, 0.5), HOLDS, ""),
        (BETTER, (0.5, 0.6), OPEN, "2 seeds in common, 3 needed"),
        (BETTER, (0.5,), OPEN, "1 seed in common, 3 needed"),
        (EQUAL, (-0.01, 0.0, 0.01), HOLDS, ""),
        (EQUAL, (0.39, 0.4, 0.41), FAILS, ""),
        (EQUAL, (-0.39, -0.4, -0.41), FAILS, ""),
        (EQUAL, (0.1, 0.2, 0.3), OPEN, "the interval includes 0.2"),
        (EQUAL, (-1.0, 0.0, 1.0), OPEN, "the interval includes \N{MINUS SIGN}0.2 and 0.2"),
        (NOT_WORSE, (0.39, 0.4, 0.41), HOLDS, ""),
        (NOT_WORSE, (-0.01, 0.0, 0.01), HOLDS, ""),
        (NOT_WORSE, (-0.39, -0.4, -0.41), FAILS, ""),
        (NOT_WORSE, (-0.3, -0.2, -0.1), OPEN, "the interval includes \N{MINUS SIGN}0.2"),
    ],
)
def test_the_rule_for_gains(part, gains, verdict, reason):
    finding = only(part, runs(ST, [2 - gain for gain in gains]) + runs(CNN, [2.0] * len(gains)))
    assert (finding.verdict, finding.reason) == (verdict, reason)


def test_a_gain_in_accuracy_is_more_of_it():
    table = dataclasses.replace(TABLE, metric="test_accuracy", lower_is_better=False)
    part = gain_in(table, ST, CNN, "exp_a")
    high, low = ([{"test_accuracy": value + seed / 100} for seed in range(3)] for value in (84.0, 82.0))
    results = [
        run
        for seed in range(3)
        for run in runs(ST, [0], [seed], metrics=high[seed]) + runs(CNN, [0], [seed], metrics=low[seed])
    ]
    assert only(part, results).verdict == HOLDS and only(part, results).number.middle == pytest.approx(2)
    # Runs that did not measure the accuracy are not there.
    assert only(part, results[:5] + runs(CNN, [9], [2])).reason == "2 seeds in common, 3 needed"


def test_only_seeds_of_both_count():
    finding = only(
        BETTER, runs(ST, [0.4, 0.5, 0.6, 9.0], [0, 1, 2, 7]) + runs(CNN, [1, 1, 1, 0], [0, 1, 2, 3])
    )
    assert finding.number.middle == pytest.approx(0.5) and finding.number.n == 3
    assert (finding.means[0].n, finding.means[1].n) == (4, 4)
    assert only(BETTER, runs(ST, [1], [0]) + runs(CNN, [1], [1])).reason == "no seed in common"


def test_what_cannot_be_compared_is_not():
    three = [1.0, 1.1, 1.2]
    st = runs(ST, [0.5, 0.6, 0.7])
    assert only(BETTER, st).reason == "CNN, A: no run"
    assert only(BETTER, st + runs(CNN, three, experiment="exp_b")).reason == "CNN, A: no run"
    assert only(BETTER, st + runs(CNN, three, test_fingerprint="cd")).reason == "tested on different images"
    assert only(BETTER, st + runs(CNN, three, config={"optimizer": {"lr": 0.2}})).reason == (
        "trained differently: optimizer.lr"
    )
    assert only(BETTER, st + runs(CNN, three, config={"trainer": {"iterations": 10}})).reason == (
        "trained differently: trainer.iterations"
    )
    several = st + runs(CNN, three) + runs(CNN, [1.3], [3], config={"model": {"name": "cnn", "width": 9}})
    assert only(BETTER, several).reason == "CNN, A: 2 configurations, 1 needed"
    for key, other in (("task", {"label_smoothing": 0.1}), ("dataset", {"val_size": 10_000})):
        (reason,) = {only(BETTER, st + runs(CNN, three, config={key: other})).reason}
        assert reason == f"trained differently: {key}.{next(iter(other))}"
    # What only a network with transformers has is no difference.
    of_st = {"optimizer": {"lr": 0.1, "localisation_lr": 0.5}, "task": {"smoothing": 0.3}}
    assert only(BETTER, st + runs(CNN, three, config=of_st)).verdict == HOLDS


def test_schedules_and_data_sets_are_never_mixed():
    claim = Claim(1, "It is so.", "nowhere", (BETTER,))
    results = (
        runs(ST, [0.5, 0.6, 0.7])
        + runs(CNN, [1.0, 1.1, 1.2], trainer="paper")
        + [run for row, error in ((ST, 2.0), (CNN, 1.0)) for run in runs(row, [error] * 3, dataset="digits")]
        + [run for row in (ST, CNN) for run in runs(row, [1.0] * 3, trainer="smoke")]
    )
    found = [(one.setting, one.verdict, one.findings[0].reason) for one in judge(claim, results, {})]
    assert found == [
        ("schedule paper", OPEN, "ST-CNN affine, A: no run"),
        ("schedule fast", OPEN, "CNN, A: no run"),
        ("schedule fast, data set digits", FAILS, ""),
    ]
    page = claims_page([claim], results, {})
    lines = [line for line in page.splitlines() if line.startswith("| ST-CNN affine, A ")]
    assert ["| 0.7 |" in line for line in lines] == [True, True, False]  # the paper's number, on its data set


def test_a_level():
    part = Level(runs_in(TABLE, ST, "exp_a"), 75.0)
    for values, verdict in (((99, 100, 100), HOLDS), ((9, 10, 11), FAILS), ((70, 80, 90), OPEN)):
        assert only(part, runs(ST, values)).verdict == verdict
    low = Level(runs_in(TABLE, ST, "exp_a"), below=75.0)
    assert [only(low, runs(ST, values)).verdict for values in ((99, 100, 100), (9, 10, 11))] == [FAILS, HOLDS]
    assert only(part, runs(ST, [99.0])).reason == "1 seed, 3 needed"
    assert only(part, []).reason == "ST-CNN affine, A: no run"


def test_a_ratio_is_judged_by_its_quartiles_on_each_machine():
    part = Ratio("a over b", "overhead", ("case", "R"), "ratio", 1.1)

    def machine(name, q1, q3, case="R"):
        ratio = {"q1": q1, "median": (q1 + q3) / 2, "q3": q3}
        return {"device": name, "rounds": 5, "rows": [{"case": case, "ratio": ratio}]}

    machines = [
        machine("a", 1.0, 1.05),
        machine("b", 1.2, 1.3),
        machine("c", 1.0, 1.2),
        machine("d", 1, 1, "P"),
    ]
    found = judge(Claim(1, "It is so.", "nowhere", (part,)), [], {"overhead": machines, "other": []})
    assert [(one.setting, one.verdict, one.reason) for one in found] == [
        ("a", HOLDS, ""),
        ("b", FAILS, ""),
        ("c", OPEN, "the interval includes 1.1"),
        ("d", OPEN, "not measured"),
    ]
    assert only(part, []).reason == "not measured"


def test_a_claim_holds_if_all_parts_do_and_does_not_if_any_does_not():
    other = gain_in(TABLE, ST, CNN, "exp_b")
    claim = Claim(1, "It is so.", "nowhere", (BETTER, other))
    good = runs(ST, [0.5, 0.6, 0.7]) + runs(CNN, [1.0, 1.1, 1.2])

    def verdict(*errors):
        more = [
            run
            for row, error in zip((ST, CNN), errors, strict=True)
            for run in runs(row, error, experiment="exp_b")
        ]
        (one,) = judge(claim, good + more, {})
        return one.verdict, one.reason

    assert verdict([1, 1, 1], [2, 2, 2]) == (HOLDS, "")
    assert verdict([2, 2, 2], [1, 1, 1]) == (FAILS, "")
    assert verdict([1], [2]) == (OPEN, "1 seed in common, 3 needed")
    claims = [claim, Claim(2, "It is so too.", "nowhere"), Claim(3, "And it is.", "nowhere", (BETTER,))]
    bad = [run for row, e in ((ST, [2, 2, 2]), (CNN, [1, 1, 1])) for run in runs(row, e, experiment="exp_b")]
    papers = [run for row, e in ((ST, [1.0]), (CNN, [2.0])) for run in runs(row, e, trainer="paper")]
    lines = claims_table(claims, good + bad + papers, {}, "claims.md").splitlines()[2:]
    assert lines == [  # each in the setting that decides the most parts
        "| [1](claims.md#claim-1) | It is so. | schedule fast | **does not hold** | 1 / 1 / 0 |",
        "| [2](claims.md#claim-2) | It is so too. | \N{EM DASH} | not decided: no run yet | \N{EM DASH} |",
        "| [3](claims.md#claim-3) | And it is. | schedule fast | **holds** | 1 / 0 / 0 |",
    ]
    near = runs(ST, [1.0, 2.0, 3.0]) + runs(CNN, [2.0, 2.5, 1.0])  # nothing decided, but of more seeds
    (line,) = claims_table(claims[2:], papers + near, {}, "claims.md").splitlines()[2:]
    assert "| schedule fast | not decided: the interval includes 0 |" in line
    (line,) = claims_table(claims[2:], papers + good[:2], {}, "claims.md").splitlines()[2:]
    assert "| schedule paper | not decided: 1 seed in common, 3 needed |" in line  # as many: the paper's
    (one,) = judge(Claim(1, "It is so.", "nowhere"), good, {})
    assert (one.verdict, one.reason, one.findings) == (OPEN, "no run yet", ())


# ---- McNemar ----


def test_mcnemar_of_the_images_that_runs_have_right(tmp_path):
    st, cnn = runs(ST, [0.5, 0.5], folder=tmp_path), runs(CNN, [1.0, 1.0], folder=tmp_path)
    by_st = np.array([True] * 90 + [True] * 9 + [False] * 1)
    by_cnn = np.array([True] * 90 + [False] * 9 + [True] * 1)
    details.keep_right(st[0].path, by_st)
    details.keep_right(cnn[0].path, by_cnn)
    details.keep_right(st[1].path, by_st)  # of seed 1, nothing is kept of the CNN
    finding = only(BETTER, st + cnn)
    # Ten tosses of a coin, one or none on the rarer side, either way.
    assert finding.tests == {0: (9, 1, pytest.approx(2 * (1 + 10) / 2**10))}
    assert finding.tests[0][2] == pytest.approx(stats.binomtest(9, 10).pvalue)
    page = claims_page([Claim(1, "It is so.", "nowhere", (BETTER,))], st + cnn, {})
    assert "| s0: 9 / 1, p = 0.021 | not decided: 2 seeds in common, 3 needed |" in page


def test_right_is_kept_once_beside_what_was_kept(tmp_path, monkeypatch):
    (one,), (other,), (bare,) = (runs(row, [1.0], folder=tmp_path) for row in (ST, CNN, ("fcn", None)))
    for run, predicted in ((one, [3, 1, 2]), (other, [3, 2, 2])):
        path = details.details_path(run.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        curve = np.array([[1, 2], [0.5, 0.25]], dtype=np.float32)
        np.savez_compressed(path, **{"predictions": np.array(predicted, dtype=np.uint8), "train/loss": curve})
    drawn = []

    def missing(result, _):
        raise UserError("The data are gone.")

    def truth(result, circumstances):
        import torch

        drawn.append(result.test_fingerprint)
        return torch.tensor([3, 1, 0])

    monkeypatch.setattr("experiments.analysis.significance.truth", missing)
    said = keep_right([one, other, bare], {})
    assert said == "No McNemar's test of st_cnn-fast-seed_0, cnn-fast-seed_0: The data are gone."
    assert details.right(one.path) is None
    monkeypatch.setattr("experiments.analysis.significance.truth", truth)
    assert keep_right([one, other, bare], {}) == "" == keep_right([one, other, bare], {})
    assert drawn == ["ab"]  # both were tested on the same images, and the second time nothing is missing
    assert details.right(one.path).tolist() == [True, True, False]
    assert details.right(other.path).tolist() == [True, False, False]
    assert details.predictions(one.path).tolist() == [3, 1, 2]
    assert details.curves(one.path) == {"train/loss": {1: 0.5, 2: 0.25}}
    run_directory = tmp_path / "torn"
    run_directory.mkdir()
    (run_directory / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/lo')
    assert details.curves(run_directory / "result.json") == {"train/loss": {1: 0.5}}
    assert details.right(bare.path) is None


# ---- the page ----


def test_the_page_names_the_runs_the_numbers_and_the_reasons(tmp_path):
    parts = (BETTER, gain_in(TABLE, ST, CNN, "exp_b"))
    claim = Claim(3, "It is so.", "nowhere", parts, "A note.")
    results = runs(ST, [0.4, 0.5, 0.6]) + runs(CNN, [1.0, 1.0, 1.0])
    untested = write_claims(tmp_path / "claims.md", [claim, Claim(4, "Empty.", "nowhere")], results, {})
    page = (tmp_path / "claims.md").read_text()
    assert untested == "" and page == claims_page([claim, Claim(4, "Empty.", "nowhere")], results[::-1], {})
    assert (
        "| [3](#claim-3) | It is so. | schedule fast | not decided: ST-CNN affine, B: no run | 1 / 0 / 1 |"
        in page
    )
    assert "| [4](#claim-4) | Empty. | — | not decided: no run yet | — |" in page
    # By hand: the standard error of 0.4, 0.5, 0.6 is 0.1 / sqrt(3), and t with two degrees of freedom is 4.303.
    assert "| ST-CNN affine, A | 0.50 [0.25, 0.75] (3) | 0.7 | CNN, A | 1.00 [1.00, 1.00] (3) | 1.2 |" in page
    assert "| +0.50 [+0.25, +0.75] (3) | > 0 | — | **holds** |" in page
    assert "not decided: ST-CNN affine, B: no run |" in page
    assert (
        "- `exp_a/st_cnn-fast-seed_0`\n" in page and "6 runs, in results/runs/" in page and "A note." in page
    )


def test_labels_of_runs_in_run_directories():
    (run,) = runs(ST, [1])
    run = dataclasses.replace(run, path=Path("outputs/mnist_r/cnn-fast/seed_0/result.json"))
    assert label(run) == "mnist_r/cnn-fast/seed_0"


def test_every_claim_of_the_paper_is_there_and_judged_whatever_is_missing():
    assert [claim.number for claim in CLAIMS] == list(range(1, 11))
    page = claims_page(CLAIMS, [], {})
    assert page.count("not decided: no run yet") == 10 and "**holds**\n" not in page
    first, second, third = CLAIMS[:3]
    assert len(first.parts) == 24 and {part.first.paper < part.second.paper for part in first.parts} == {True}
    # Half of 0.8 - 0.5 on RTS, and of 1.2 - 0.7 on R.
    assert {(part.above, part.below) for part in second.parts} == {(-0.15, 0.15)}
    assert [part.above for part in third.parts] == [0] * 4 + [-0.25] * 4
    assert [part.first.paper for part in CLAIMS[4].parts] == [1.7, 2.0, 3.5]


def test_head_and_body_by_hand():
    metrics = {"test_random_head": 30.0, "test_random_body": 60.0}
    for k, (head, body) in enumerate(((90, 65), (50, 95))):
        metrics |= {f"test_st{k}_head": head, f"test_st{k}_body": body}
        metrics |= {f"test_start{k}_head": 40.0, f"test_start{k}_body": 50.0}
    # 0 on the head: 90 - 50, the other window's; 1 on the body: 95 - 65, the other's; the lesser of 40 and 30.
    assert head_and_body(metrics) == 30
    # Without a lead at the body: 55 - 65.
    assert head_and_body(metrics | {"test_st1_body": 55.0}) == -10
    # 0 is best at both and cannot be both: 1 on the body, 55 - 95, or on the head, 50 - 90.
    assert head_and_body(metrics | {"test_st0_body": 95.0, "test_st1_body": 55.0}) == -40
    # Both windows are on the head, above what learnt nothing in both regions: the least is 91 - 88.
    both = {"test_st0_head": 88.0, "test_st0_body": 78.0, "test_st1_head": 91.0, "test_st1_body": 68.0}
    assert head_and_body(metrics | both) == 3
    # Random windows and those before training count too: 95 - 80 at the body, then 90 - 85 at the head.
    assert head_and_body(metrics | {"test_random_body": 80.0}) == 15
    assert head_and_body(metrics | {"test_start0_head": 85.0}) == 5
    assert head_and_body({"test_accuracy": 80.0}) is None


def test_the_durations_are_beside_the_page(tmp_path):
    assert read_benchmarks(tmp_path) == {}
    (tmp_path / "benchmarks.json").write_text(json.dumps({"overhead": []}))
    assert read_benchmarks(tmp_path) == {"overhead": []}
    (tmp_path / "benchmarks.json").write_text('{"overhead": [')
    with pytest.raises(UserError, match=r"benchmarks\.json is damaged"):
        read_benchmarks(tmp_path)


def test_the_published_page_is_in_step_with_the_results():
    results = load_results([ROOT / "results"])
    page = claims_page(CLAIMS, results, read_benchmarks(ROOT / "results"))
    assert (ROOT / "results" / "claims.md").read_text(encoding="utf-8") == page, "make tables"
