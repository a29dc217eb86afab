# make demo: train a model on a CPU and report on it.   make test: what a change must pass.   make bench: speed, with PyTorch.
PYTHON ?= python3
BIN := .venv/bin
# The tested set is for Python 3.11; a newer Python resolves the bounds of pyproject.toml freely. Read when .venv exists.
CONSTRAINTS = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')

.PHONY: demo test lint bench parity test-lowest clean

demo: .venv/.installed
	$(BIN)/python train.py --config configs/ddpm.py:digits --workdir runs/demo
	$(BIN)/python eval.py --workdir runs/demo --tasks=samples,denoising,likelihood,quality,neighbours
	$(BIN)/python -m gm_jax.report runs/demo --out runs/report

test: lint
	$(BIN)/python -m pytest -q -n 2 --durations=20

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks

# Compares with packages that others have written, and writes docs/parity.md. An environment of its own: one of the packages
# (torch-fidelity) installs a package that is named tests, too.
parity: build/parity/.installed
	rm -f build/parity.jsonl
	GM_JAX_PARITY=build/parity.jsonl $(BIN)/python -m pytest -q tests/parity
	$(BIN)/python tests/parity/page.py build/parity.jsonl docs/parity.md

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@ .venv/.installed

.venv/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[bench]'
	touch $@ .venv/.installed

# The fast part of the suite on the lowest versions that pyproject.toml allows, in an environment of its own.
test-lowest: build/lowest/.installed
	$(BIN)/python -m pytest -q -n 2 tests/diffusion tests/models tests/data tests/training/test_learning.py \
		tests/training/test_checkpoints.py tests/training/test_optimizers.py tests/test_build.py

test-lowest build/lowest/.installed: BIN := build/lowest/bin
build/lowest/bin/python:
	$(PYTHON) -m venv build/lowest
build/lowest/.installed: pyproject.toml tests/lowest.py | build/lowest/bin/python
	$(BIN)/python tests/lowest.py > build/lowest/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c build/lowest/constraints.txt -e . 'pytest>=9.2' 'pytest-xdist>=3.8'
	touch $@

parity build/parity/.installed: BIN := build/parity/bin
build/parity/bin/python:
	$(PYTHON) -m venv build/parity
build/parity/.installed: pyproject.toml constraints.txt | build/parity/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev,parity]'
	touch $@

# Keeps runs/: training is dear.
clean:
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache build dist *.egg-info
