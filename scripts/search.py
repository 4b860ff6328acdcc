"""Search hyper-parameters with Optuna, in Hydra's sweep grammar, on held-out training images:

python scripts/search.py experiment=mnist_rts trainer=fast dataset.val_size=5000 --study lr --trials 20 \\
    "optimizer.lr=tag(log,interval(1e-4,1e-2))" "model.width=choice(8,16)"

Every trial is a run in its own directory. Killed or stopped, the search goes on when given again.
"""

import argparse
import sys

from experiments.engine.build import UserError
from experiments.engine.cli import explain_bad_overrides
from experiments.engine.machine import usual_jobs
from experiments.sweeps.process import told_device


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="+", help="as of train.py; one at least an interval, choice or range"
    )
    parser.add_argument("--study", required=True, help="its name; its folder is <output_dir>/search/<study>")
    parser.add_argument(
        "--trials", type=int, default=20, help="in all, those of earlier calls too (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, help="trials at a time (one a core; one on a GPU)")
    parser.add_argument(
        "--metric", default="val_error", help="val_error, val_accuracy or val_loss (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is proposed; that of the runs is seed=")
    parser.add_argument("--no-pruning", action="store_true", help="let every trial end")
    args = parser.parse_intermixed_args()  # overrides may stand behind options
    try:
        from experiments.sweeps.search import ask, picture, report, search

        jobs = usual_jobs(told_device(args.overrides)) if args.jobs is None else args.jobs
        for name, value in (("trials", args.trials), ("jobs", jobs)):
            if value < 1:
                raise UserError(f"--{name} {value} is not valid: it is a whole number from 1.")
        explain_bad_overrides(args.overrides)
        question = ask(args.overrides, study=args.study, metric=args.metric)
        study = search(question, trials=args.trials, jobs=jobs, seed=args.seed, pruning=not args.no_pruning)
    except (UserError, ModuleNotFoundError) as error:
        hint = "" if isinstance(error, UserError) else ": pip install -e '.[sweep]'"
        print(f"{error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    print(f"\n{report(question, study)}")
    if drawn := picture(question, study):
        print(f"Picture: {drawn}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
