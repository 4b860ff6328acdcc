# Needs git, make and Python 3.11.4 or newer; everything else goes into .venv. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm test-page lint format docs page tables bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## train an ST-CNN for a minute on digits that come with scikit-learn
	$(PY) train.py experiment=mnist_rts dataset=digits trainer=smoke

test: lint  ## lint, then run the tests on two cores; they build the documentation too
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal -m "not browser"

test-page: page  ## use the site in Chromium (Debian: apt-get install chromium), the drawing page against PyTorch
	$(PY) -m uv pip install --quiet --python $(PY) -e '.[page]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m browser

test-slurm: $(STAMP)  ## sweeps on a Slurm of one node, preempted; root on a throw-away Debian, nothing elsewhere
	OMP_NUM_THREADS=1 PYTHON=$(PY) scripts/slurm_cluster.sh $(PY) -m pytest -q tests/slurm

lint: $(STAMP)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)  ## format the code, and mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(STAMP)  ## README.md, docs/ and docstrings -> site/index.html, which opens from disk
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

page: $(STAMP)  ## `make docs` with the drawing page: networks of weights/ as ONNX, onnxruntime-web from npm
	@command -v npm >/dev/null || { echo "The drawing page needs npm (Debian: apt-get install npm); make docs builds the rest of the site." >&2; exit 1; }
	mkdir -p build/npm && cp docs/draw/package.json build/npm/
	npm install --prefix build/npm --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
	$(PY) scripts/draw_page.py --runtime build/npm/node_modules/onnxruntime-web/dist --out build/site/docs/draw
	$(MAKE) docs

tables: $(STAMP)  ## results/runs/ -> results/README.md, CSV, LaTeX, cost.md, claims.md and the tables in README.md
	$(PY) scripts/make_tables.py --page README.md --costs results/cost.md --claims results/claims.md

bench: $(STAMP)  ## measure speed again -> results/benchmarks.md, docs/speed.md; half an hour, on a machine left alone
	$(PY) scripts/benchmark.py all --json results/benchmarks.json --page docs/speed.md

setup: $(STAMP)  ## install into .venv; the other targets do it themselves

clean:  ## remove caches and build products; keeps .venv, data/ and outputs/
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Redone only when a requirement changes. Compiled at once, a process starts twice as fast wherever Python may not
# write its bytecode. uv does the installing: it keeps to the pinned versions and is many times faster.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null || \
		{ echo "Python 3.11.4 or newer is needed and '$(PYTHON)' is not: name one, as in 'make test PYTHON=python3.12'." >&2; exit 1; }
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --python $(PY) --compile-bytecode -r requirements.txt
	$(PY) -m uv pip install --python $(PY) --no-deps -e .
	@touch $@
