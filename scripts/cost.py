"""What a full reproduction costs, from measured rates: `python scripts/cost.py`.

python scripts/cost.py --trainer fast --seeds 0        # another schedule, fewer seeds
python scripts/cost.py --workers 16 --device "cpu: "   # your machine: so many runs at a time, at this device's rates
python scripts/cost.py --out results/cost.md --page README.md   # the pages again
"""

import argparse
import sys
from pathlib import Path

from experiments.cost import cost, write
from experiments.engine.build import UserError
from experiments.engine.files import ROOT
from experiments.sweeps.reproduce import parse_seeds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainer", default="paper")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workers", type=int, help="runs at a time, on one machine of your own")
    parser.add_argument("--device", help="how the name of the device begins whose rates to take")
    parser.add_argument(
        "--rates", type=Path, metavar="FILE", help="of benchmark.py (results/benchmarks.json)"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where finished runs are")
    parser.add_argument("--out", type=Path, help="a page to write, such as results/cost.md")
    parser.add_argument("--page", type=Path, help="a page to put the table into, between its cost marks")
    args = parser.parse_args()
    try:
        found = cost(
            trainer=args.trainer,
            seeds=parse_seeds(args.seeds),
            results=args.results,
            benchmarks=args.rates,
            workers=args.workers,
            device=args.device,
        )
        print(found.markdown())
        for path in write(found, out=args.out, page=args.page):
            print(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
