"""Make results/README.md and results/tables/ from the results of all published runs: `python scripts/make_tables.py`.

python scripts/make_tables.py --page README.md         # and the tables of README.md
python scripts/make_tables.py --costs results/cost.md  # and what the runs took, and what the missing ones would
python scripts/make_tables.py --claims results/claims.md  # and which claims of the paper hold
python scripts/make_tables.py outputs --out tables --include-smoke
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.claims import claims_table, read_benchmarks, write_claims
from experiments.engine.build import UserError
from experiments.engine.cli import one_sentence_errors
from experiments.report import embed, headline, load_results, write_tables
from experiments.report.costs import costs_page
from experiments.report.wandb_tables import log_tables
from experiments.sections import CLAIMS, TABLES
from experiments.sweeps.overview import missing


def main() -> int:
    parser = argparse.ArgumentParser(description="result.json files -> README.md, tables/*.csv, tables/*.tex")
    add = parser.add_argument
    add("dirs", nargs="*", metavar="DIR", default=["results"], help="where results are (results)")
    add("--out", type=Path, default=Path("results"), help="where tables go (results)")
    add("--page", type=Path, help="a page for the headline table and the verdicts, between their marks")
    add("--costs", type=Path, metavar="FILE", help="the page of what runs cost")
    add("--claims", type=Path, metavar="FILE", help="the page of claims; benchmarks.json is in --out")
    add("--include-smoke", action="store_true", help="also show runs of the smoke trainer")
    add("--wandb", choices=["offline", "online"], help="log the tables to W&B as well")
    args = parser.parse_args()
    tables, smoke = list(TABLES.values()), args.include_smoke
    with one_sentence_errors():
        text, paths = write_tables(args.dirs, args.out, tables, include_smoke=smoke)
        results, benchmarks = load_results(args.dirs), read_benchmarks(args.out)
        if args.page:
            said = claims_table(CLAIMS, results, benchmarks, "results/claims.md")
            for name, block in (("headline", headline(TABLES["table1"], results)), ("claims", said)):
                if not embed(args.page, block, name):
                    raise UserError(
                        f"{args.page} has no place for a table: <!-- {name} --> ... <!-- /{name} -->."
                    )
        if args.costs:
            args.costs.write_text(costs_page(tables, results, *missing(results)), encoding="utf-8")
            paths.append(args.costs)
        if args.claims:
            print(write_claims(args.claims, CLAIMS, results, benchmarks), end="", file=sys.stderr)
            paths.append(args.claims)
        command = args.wandb and log_tables(args.dirs, tables, mode=args.wandb, include_smoke=smoke)
    print(text, *paths, *([command] if command else []), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
