"""Finished runs side by side, without W&B: `python scripts/compare.py outputs/mnist_rts`.

What differs in their configurations, their metrics, paired differences where seeds match, McNemar's test where their
predictions are there, and their learning curves in one picture.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.compare import curves, main_metric, report, variants
from experiments.engine.build import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, help="run directories, folders of them, results/runs/..."
    )
    parser.add_argument("--metric", help="to compare in pairs; default: test_accuracy or test_error")
    parser.add_argument("--against", help="the letter that all are compared with; default: all pairs of few")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/compare.png"), help="the picture (%(default)s)"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where data are, for McNemar's test (STN_DATA_DIR, or data/)"
    )
    parser.add_argument(
        "--cache-dir", default="outputs/cache", help="where decoded photographs are (%(default)s)"
    )
    args = parser.parse_args()
    try:
        found = variants(args.paths)
        where = {"data_dir": args.data_dir and str(args.data_dir), "cache_dir": args.cache_dir}
        print(report(found, main_metric(found, args.metric), where, args.against))
        drawn = curves(found, args.out)
        print(
            f"Learning curves: {drawn}" if drawn else "No learning curves: no log is kept with the results."
        )
    except (UserError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
