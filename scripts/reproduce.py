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
from experiments.sections import TABLES
from experiments.sweeps.job import INTERRUPTED
from experiments.sweeps.plan import ALL
from experiments.sweeps.reproduce import fill


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("table", choices=[*sorted(TABLES), ALL])
    add("overrides", nargs="*", help="of train.py, none that decides a result: device=cuda wandb.mode=online")
    add("--trainer", default="paper")
    add("--dataset", help="such as cub50; with all: only the tables that it fits")
    add("--seeds", default="0,1,2")
    add("--budget", help="90s, 30m, 2h, 1h30m; default: until all is done")
    add("--jobs", type=int, help="runs at a time (one a core; one on a GPU)")
    add("--launcher", help="local or slurm (with hydra.launcher.partition=...): one sweep")
    add("--results", type=Path, default=ROOT / "results")
    add("--no-publish", action="store_true", help="train only; needed where code is not committed")
    add("--dry-run", action="store_true", help="say what is missing and how long it takes")
    add("--list", dest="listed", action="store_true", help="with --dry-run: a line for each missing run too")
    args = vars(parser.parse_intermixed_args())  # overrides may stand behind options
    try:
        return fill(args.pop("table"), args.pop("overrides"), publishing=not args.pop("no_publish"), **args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
