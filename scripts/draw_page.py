"""Write what the drawing page of the site needs: the networks of weights/ as ONNX, packed with onnxruntime-web.

`make page` runs it, with onnxruntime-web from npm, and builds the site.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.drawing import build_page
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--runtime", type=Path, required=True, help="dist/ of the npm package onnxruntime-web")
    add("--out", type=Path, required=True, help="folder to write, anew")
    add("--weights", type=Path, default=Path("weights"), help="trained networks (%(default)s)")
    args = parser.parse_args()
    with one_sentence_errors():
        for line in build_page(args.weights, args.runtime, args.out):
            print(line, flush=True)  # each takes a while
    return 0


if __name__ == "__main__":
    sys.exit(main())
