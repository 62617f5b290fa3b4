# Every target sets up .venv by itself; a fresh machine needs only Python 3.11+ and a C++17 compiler.
PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= compile,video,onnx,zoo,report,bench,dev
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# cmake and ninja may come from the environment alone
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test lint bench format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

# torch first: what is installed later must fit the build that was chosen, not replace it.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fluxcompile needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >$(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# One thread: the small batches of changed tiles gain little from more, and a busy machine makes them wait for each other.
demo: $(READY)  ## find faces in a clip, dense, exact and approximate; writes out/demo/ (DEMO="--frames 120")
	OMP_NUM_THREADS=1 $(BIN)/fluxcompile demo $(DEMO)

test: $(READY)  ## all tests, one torch thread a worker
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not gpu'

lint: $(READY)  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## time against activity beside dense peers; writes out/bench/ (BENCH="--pattern both")
	$(BIN)/python -m fluxcompile.kernels.build
	$(BIN)/python benchmarks/run.py $(BENCH)

format: $(READY)  ## ruff's formatter and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## everything that can be made again, .venv included
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
