"""Trials on held-out training digits: runs what is missing and draws the table.

python scripts/trials.py readings --seeds 0 1 2
python scripts/trials.py recipes --render
"""

import argparse
import fnmatch
import logging

from experiments.analysis.trial_tables import TABLES
from experiments.analysis.trials import render, run, stored
from experiments.engine.build import UserError
from experiments.engine.cli import one_sentence_errors


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
    with one_sentence_errors():
        trials = [one for one in TABLES[args.table].trials if fnmatch.fnmatch(one.name, args.only)]
        if not trials:
            names = ", ".join(one.name for one in TABLES[args.table].trials)
            raise UserError(f"--only {args.only} matches no trial of {args.table}: they are {names}.")
        for seed in [] if args.render else args.seeds:
            for trial in trials:
                if not stored(args.table, trial, seed):
                    run(args.table, trial, seed)
        print(render(args.table))


if __name__ == "__main__":
    main()
