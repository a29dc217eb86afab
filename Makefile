# make demo: train a model on a CPU and report on it.   make test: what a change must pass.   make bench: speed, with PyTorch.
PYTHON ?= python3
BIN := .venv/bin
# The tested set is for Python 3.11; a newer Python resolves the bounds of pyproject.toml freely. Read when .venv exists.
CONSTRAINTS = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')

.PHONY: demo test lint bench clean

demo: .venv/.installed
	$(BIN)/python train.py --config configs/ddpm.py:digits --workdir runs/demo
	$(BIN)/python eval.py --workdir runs/demo --tasks=samples,denoising,likelihood,quality,neighbours
	$(BIN)/python -m gm_jax.report runs/demo --out runs/report

test: lint
	$(BIN)/python -m pytest -q -n 2

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks

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

# Keeps runs/: training is dear.
clean:
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache build dist *.egg-info
