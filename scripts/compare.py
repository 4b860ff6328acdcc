"""Compare finished runs, without W&B: `python scripts/compare.py outputs/mnist_rts`.

Shows what differs in their configurations, their metrics, paired differences where seeds match, McNemar's test where
predictions are stored, and their learning curves in one picture.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.compare import report
from experiments.analysis.curves import curves
from experiments.analysis.variants import main_metric, variants
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("paths", nargs="+", type=Path, help="run directories, folders of them, results/runs/...")
    add("--metric", help="whose differences are tested (test_accuracy, or test_error)")
    add("--against", help="letter of the configuration that all are compared with (all pairs of few)")
    add("--out", type=Path, default=Path("outputs/compare.png"), help="the picture (%(default)s)")
    add("--data-dir", help="where data are, for McNemar's test (STN_DATA_DIR, or data/)")
    add("--cache-dir", default="outputs/cache", help="where decoded images are (%(default)s)")
    args = parser.parse_args()
    where = {"data_dir": args.data_dir, "cache_dir": args.cache_dir}
    with one_sentence_errors():
        compared = variants(args.paths)
        print(report(compared, main_metric(compared, args.metric), where, args.against))
        picture = curves(compared, args.out)
    print(f"Learning curves: {picture}" if picture else "No learning curves: no log is stored.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
