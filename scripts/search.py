"""Search hyper-parameters with Optuna, in Hydra's sweep grammar, on held-out training images:

python scripts/search.py experiment=mnist_rts trainer=fast dataset.val_size=5000 --study lr --trials 20 \\
    "optimizer.lr=tag(log,interval(1e-4,1e-2))" "model.width=choice(8,16)"

Every trial is a run in its own directory. Killed or stopped, the search goes on when given again.
"""

import argparse
import sys

from experiments.engine.build import UserError
from experiments.engine.cli import explain_bad_overrides
from experiments.sweeps.job import INTERRUPTED


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("overrides", nargs="+", help="as of train.py; one at least an interval, choice or range")
    add("--study", required=True, help="its name; its folder is <output_dir>/search/<study>")
    add("--trials", type=int, default=20, help="in all, those of earlier calls too (%(default)s)")
    add("--jobs", type=int, help="trials at a time (one a core; one on a GPU)")
    add("--metric", default="val_error", help="val_error or val_loss (%(default)s)")
    add("--seed", type=int, default=0, help="of what is proposed; that of the runs is seed=")
    add("--no-pruning", action="store_true", help="let every trial end")
    args = parser.parse_intermixed_args()  # overrides may stand behind options
    try:
        from experiments.sweeps.pool import parse_jobs
        from experiments.sweeps.search import define_study, search
        from experiments.sweeps.search_report import draw, write_report

        at_once = parse_jobs(args.jobs, args.overrides)
        if args.trials < 1:
            raise UserError(f"--trials {args.trials} is not valid: it is a whole number from 1.")
        explain_bad_overrides(["-m", *args.overrides])  # -m: intervals are several values
        study = define_study(args.overrides, name=args.study, metric=args.metric)
        trials = search(
            study, trials=args.trials, at_once=at_once, seed=args.seed, pruning=not args.no_pruning
        )
    except (UserError, ModuleNotFoundError) as error:
        hint = "" if isinstance(error, UserError) else ": pip install -e '.[sweep]'"
        print(f"{error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{write_report(study, trials)}")
    for path in draw(study, trials):
        print(f"Picture: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
