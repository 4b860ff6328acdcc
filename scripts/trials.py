"""Trials on held-out training digits: runs what is missing and draws the table.

python scripts/trials.py readings --seeds 0 1 2
python scripts/trials.py recipes --render
"""

import argparse
import fnmatch
import logging

from experiments.analysis.trial_tables import TABLES
from experiments.analysis.trials import render, run, stored


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="*", help="names of trials, with * (%(default)s)")
    parser.add_argument("--render", action="store_true", help="draw the table and run nothing")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for seed in [] if args.render else args.seeds:
        for trial in TABLES[args.table].trials:
            if fnmatch.fnmatch(trial.name, args.only) and not stored(args.table, trial, seed):
                run(args.table, trial, seed)
    print(render(args.table))


if __name__ == "__main__":
    main()
