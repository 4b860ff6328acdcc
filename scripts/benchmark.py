"""Measure speed: `python scripts/benchmark.py all --json results/benchmarks.json`.

Suites: distort, sampler, train, tricks, overhead, seeds, size, birds, start, gpu, which are `all`; and accuracy, which
trains six networks (resumable). `page` measures nothing and only writes results/benchmarks.md again.
Leave the machine alone meanwhile.
"""

import argparse
import sys
from pathlib import Path

from experiments.benchmarks.page import section_markdown, write_page
from experiments.benchmarks.suites import ALL, SUITES, run_suites
from experiments.engine.build import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=[*SUITES, "all", "page"])
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="merge the suite into this file, and make FILE's page"
    )
    parser.add_argument("--rounds", type=int, default=9, help="times that each side is measured (9)")
    parser.add_argument("--page", type=Path, help="a page whose paragraph of performance to renew")
    args = parser.parse_args()
    try:
        if args.rounds < 3:
            raise UserError(f"--rounds {args.rounds} is too few for a median and quartiles: at least 3.")
        if args.suite == "page" and args.json is None:
            raise UserError("page needs --json FILE, the file that was measured.")
        if args.suite != "page":
            names = list(ALL) if args.suite == "all" else [args.suite]
            run_suites(names, rounds=args.rounds, path=args.json, show=section_markdown)
        if args.json and (args.suite == "page" or args.json.exists()):  # a suite may have been skipped
            for path in write_page(args.json, page=args.page):
                print(path)
    except (UserError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
