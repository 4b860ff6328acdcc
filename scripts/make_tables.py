"""Make results/README.md and results/tables/ from the result.json of every published run.

python scripts/make_tables.py                # results/runs/ -> results/
python scripts/make_tables.py --page README.md  # and the table of the front page
python scripts/make_tables.py --costs results/cost.md  # and what the runs took, and the missing ones would
python scripts/make_tables.py outputs --out tables --include-smoke
python scripts/make_tables.py --wandb offline   # and to W&B
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.engine.build import UserError
from experiments.report import embed, headline, load_results, write_tables
from experiments.report.costs import costs_page
from experiments.report.wandb_tables import mirror
from experiments.sections import TABLES
from experiments.sweeps import reproduce


def main() -> int:
    parser = argparse.ArgumentParser(description="result.json files -> README.md, tables/*.csv, tables/*.tex")
    parser.add_argument(
        "dirs", nargs="*", metavar="DIR", default=["results"], help="where results are (results)"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="where tables go (results)")
    parser.add_argument("--page", type=Path, help="a page to put the headline table into, between its marks")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="the page of what runs cost")
    parser.add_argument("--include-smoke", action="store_true", help="also show runs of the smoke trainer")
    parser.add_argument("--wandb", choices=["offline", "online"], help="log the tables to W&B as well")
    args = parser.parse_args()
    tables = list(TABLES.values())
    try:
        text, paths = write_tables(args.dirs, args.out, tables, include_smoke=args.include_smoke)
        results = load_results(args.dirs)
        if args.page and not embed(args.page, headline(TABLES["table1"], results), "headline"):
            raise UserError(
                f"{args.page} has no place for the table: <!-- headline --> ... <!-- /headline -->."
            )
        if args.costs:
            args.costs.write_text(costs_page(tables, results, *reproduce.missing(results)), encoding="utf-8")
            paths.append(args.costs)
        command = args.wandb and mirror(args.dirs, tables, mode=args.wandb, include_smoke=args.include_smoke)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    for path in paths:
        print(path)
    if command:
        print(command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
