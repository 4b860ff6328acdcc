"""Write a trained network for other programs: `python scripts/export.py outputs/mnist_rts/.../seed_0 --out model.onnx`.

The ending of the file decides: .onnx, or .pt2 for torch.export. The outputs are logits, theta and warped.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.export import export_run
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="run directory")
    add("--out", type=Path, required=True, help="file to write, .onnx or .pt2")
    add("--data-dir", help="where data are (STN_DATA_DIR, or data/)")
    add("--cache-dir", default="outputs/cache", help="where decoded images are (%(default)s)")
    args = parser.parse_args()
    with one_sentence_errors():
        print(export_run(args.run, args.out, {"data_dir": args.data_dir, "cache_dir": args.cache_dir}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
