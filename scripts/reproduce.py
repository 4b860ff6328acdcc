"""Fill a table, or all: `python scripts/reproduce.py table1 --trainer fast --seeds 0,1,2 --budget 30m`.

Lists the missing cells, with --dry-run also how long each takes by what has been run; trains the most telling first,
copies finished results into results/. Killed or out of time, it goes on when given again. Afterwards:
`python scripts/make_tables.py`.
"""

import argparse
import sys
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.files import ROOT
from experiments.sweeps.reproduce import ALL, TABLES, parse_budget, parse_seeds, plan, reproduce


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=[*sorted(TABLES), ALL])
    parser.add_argument(
        "overrides", nargs="*", help="circumstances for train.py, such as device=cuda wandb.mode=online"
    )
    parser.add_argument("--trainer", default="paper")
    parser.add_argument("--dataset", help="such as cub50; with all: only the tables that it fits")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", help="90s, 30m, 2h, 1h30m; default: until all is done")
    parser.add_argument("--jobs", type=int, help="runs at a time (one a core; one on a GPU)")
    parser.add_argument("--launcher", help="local or slurm (with hydra.launcher.partition=...): one sweep")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--dry-run", action="store_true", help="list what is missing, train nothing")
    args = parser.parse_intermixed_args()  # overrides may stand behind options
    try:
        seeds, budget = parse_seeds(args.seeds), parse_budget(args.budget)
        runs = plan(
            args.table,
            trainer=args.trainer,
            seeds=seeds,
            results=args.results,
            extra=args.overrides,
            dataset=args.dataset,
        )
        how = {"budget": budget, "jobs": args.jobs, "launcher": args.launcher, "told": args.overrides}
        outcome = reproduce(runs, dry_run=args.dry_run, **how)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 1 if outcome["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
