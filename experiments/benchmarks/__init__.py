"""How fast it is, and against what: suites of comparisons, run by scripts/benchmark.py into results/benchmarks.md."""
