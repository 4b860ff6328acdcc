"""Fill a table, or all: `python scripts/reproduce.py table1 --trainer fast --seeds 0,1,2 --budget 30m`.

Trains the missing cells, the most informative first, and copies finished results into results/. Killed or out of time,
it goes on when given again. Afterwards: `python scripts/make_tables.py`.

Ends with status 0 where all is done, or a budget was given and no run has failed; 1 where a run has failed or is open;
2 for a bad command; 130 on Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from experiments.engine.build import UserError
from experiments.engine.files import ROOT
from experiments.engine.overrides import Overrides
from experiments.sweeps.job import INTERRUPTED, exit_status
from experiments.sweeps.pool import parse_jobs
from experiments.sweeps.reproduce import (
    ALL,
    LAUNCHER,
    TABLES,
    launch,
    overview,
    parse_budget,
    parse_seeds,
    plan,
    reproduce,
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=[*sorted(TABLES), ALL])
    parser.add_argument(
        "overrides", nargs="*", help="for train.py, none that decides a result: device=cuda wandb.mode=online"
    )
    parser.add_argument("--trainer", default="paper")
    parser.add_argument("--dataset", help="such as cub50; with all: only the tables that it fits")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", help="90s, 30m, 2h, 1h30m; default: until all is done")
    parser.add_argument("--jobs", type=int, help="runs at a time (one a core; one on a GPU)")
    parser.add_argument("--launcher", help="local or slurm (with hydra.launcher.partition=...): one sweep")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument(
        "--no-publish", action="store_true", help="train only; needed where code is not committed"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is missing and how long it takes")
    parser.add_argument("--list", action="store_true", help="with --dry-run: a line for each missing run too")
    args = parser.parse_intermixed_args()  # overrides may stand behind options
    try:
        settings = Overrides.parse(args.overrides).below(LAUNCHER).words
        if args.launcher and (args.jobs is not None or args.budget):
            raise UserError(
                "--budget and --jobs are for runs on this machine: leave them out with --launcher."
            )
        if settings and not args.launcher:
            raise UserError(f"{settings[0]} is a launcher's: give --launcher too.")
        seeds, budget = parse_seeds(args.seeds), parse_budget(args.budget)
        at_once, publishing = parse_jobs(args.jobs, args.overrides), not args.no_publish
        jobs = plan(
            args.table,
            trainer=args.trainer,
            seeds=seeds,
            results=args.results,
            extra=args.overrides,
            dataset=args.dataset,
        )
        if args.dry_run or args.list:
            overview(jobs, at_once=at_once, listed=args.list)
            return 0
        if args.launcher:
            outcomes = launch(jobs, args.launcher, settings, publishing=publishing)
        else:
            outcomes = reproduce(jobs, budget=budget, at_once=at_once, publishing=publishing)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    return exit_status(outcomes, budget=args.budget is not None)


if __name__ == "__main__":
    sys.exit(main())
