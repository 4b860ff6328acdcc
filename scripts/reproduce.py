"""Fill a table: `python scripts/reproduce.py table1 --trainer fast --seeds 0,1,2 --budget 30m`.

Lists the table's missing cells, trains the most telling first, copies finished results into results/. Killed or out of
time, it goes on when given again. Afterwards: `python scripts/make_tables.py`.
"""

import argparse
import sys
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.process import ROOT, usual_jobs
from experiments.reproduce import TABLES, parse_budget, plan, reproduce


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument(
        "overrides", nargs="*", help="circumstances for train.py, such as device=cuda wandb.mode=online"
    )
    parser.add_argument("--trainer", default="paper")
    parser.add_argument("--dataset", help="another than the experiments' own, such as cub50")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", help="90s, 30m, 2h, 1h30m; default: until all is done")
    parser.add_argument("--jobs", type=int, help="runs at a time (one a core; one on a GPU)")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--dry-run", action="store_true", help="list what is missing, train nothing")
    args = parser.parse_intermixed_args()  # overrides may stand behind options
    try:
        if not all(seed.isdigit() for seed in args.seeds.split(",")):
            raise UserError(f"--seeds {args.seeds} is not a list of seeds: write 0,1,2.")
        jobs = usual_jobs(args.overrides) if args.jobs is None else args.jobs
        if jobs < 1:
            raise UserError(f"--jobs {args.jobs} is not valid: it is a whole number from 1.")
        seeds = [int(seed) for seed in args.seeds.split(",")]
        runs = plan(
            args.table,
            trainer=args.trainer,
            seeds=seeds,
            results=args.results,
            extra=args.overrides,
            dataset=args.dataset,
        )
        outcome = reproduce(runs, budget=parse_budget(args.budget), dry_run=args.dry_run, jobs=jobs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 1 if outcome["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
