# Every target sets up .venv by itself; a fresh machine needs only Python 3.11+ and a C++17 compiler.
PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= compile,video,onnx,zoo,report,bench,int8,export,remote,cluster,nvrtc,dev
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUILT := build/kernels/.built
CSRC := $(shell find kernels/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cuh' -o -name '*.cu')
ONBOARD := fluxcompile/onboard/runner.cpp $(shell find tests/fake_tensorrt -name '*.c' -o -name '*.h')
PIP := $(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --no-build-isolation
# cmake and ninja may come from the environment alone
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help bindings targets demo test sanitize tsan gpu lint soak bench format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

# torch first: what is installed later must fit the build that was chosen, not replace it. Then what builds: pip must not
# isolate a build, or nothing of it could be kept.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fluxcompile needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >$(VENV)/constraints.txt
	$(PIP) 'scikit-build-core>=1.0' 'nanobind>=2.4' cmake ninja
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# Compiles what changed. The first time, that was done above.
$(BUILT): $(READY) kernels/CMakeLists.txt $(CSRC)
	$(PIP) --no-deps --editable .
	@touch $@

# One thread: the small batches of changed tiles gain little from more, and a busy machine makes them wait for each other.
demo: $(BUILT)  ## find faces in a clip, dense, exact and approximate; writes out/demo/ (DEMO="--frames 120")
	OMP_NUM_THREADS=1 $(BIN)/fluxcompile demo $(DEMO)

test: $(BUILT)  ## all tests, one torch thread a worker
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not gpu'

# Both are called tensorrt_bindings, so that each needs a folder of its own.
bindings: $(READY)  ## TensorRT's Python bindings, whose names `fluxcompile check` looks up
	$(BIN)/python -m pip install --quiet --no-deps --target build/bindings/8.6.1 tensorrt-bindings==8.6.1
	$(BIN)/python -m pip install --quiet --no-deps --target build/bindings/10.3.0 tensorrt-cu12-bindings==10.3.0

# What an index does not have is told, and its tests skip with the reason.
targets: $(BUILT)  ## what the vendor's own packages say of bundles: TensorRT's names, engines built ahead of time
	@$(MAKE) --no-print-directory bindings || echo "targets: no index here has TensorRT's bindings"
	@$(PIP) --editable '.[rtx]' || echo "targets: no index here has TensorRT for RTX"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_targets.py

# A build of its own, installed beside the checkout's and found before it. The preloaded libraries must be the first.
define sanitized
	rm -rf build/$(1)/site
	$(PIP) --no-deps --target build/$(1)/site . --config-settings build-dir=build/$(1) --config-settings cmake.build-type=Debug \
		--config-settings cmake.define.FLUX_SANITIZE=$(1) --config-settings cmake.define.FLUX_WIDE=ON \
		--config-settings cmake.define.CMAKE_CXX_COMPILER=$(CXX)
	LD_PRELOAD="$$($(CXX) -print-file-name=$(2)) $$($(CXX) -print-file-name=libstdc++.so)" \
		OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest --capture=sys --override-ini pythonpath='build/$(1)/site .' $(3)
endef

sanitize: export ASAN_OPTIONS := detect_leaks=0
sanitize: $(READY)  ## the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call sanitized,address,libasan.so,tests/kernels)

tsan: $(READY)  ## the kernels' tests of threads under ThreadSanitizer
	$(call sanitized,thread,libtsan.so,tests/kernels/test_threads.py tests/kernels/test_sanitizers.py)

gpu: $(BUILT)  ## tests on an NVIDIA GPU, where torch has CUDA; writes out/gpu.xml, with the GPU's name
	$(BIN)/python -m pytest -m gpu --junitxml=out/gpu.xml

lint: $(READY)  ## ruff, mypy --strict, import contracts, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --style=file:kernels/.clang-format --dry-run --Werror $(CSRC) $(ONBOARD)

soak: $(BUILT)  ## cameras and a server for a while: flat memory, steady agreement (SOAK="--minutes 30")
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(SOAK)

bench: $(BUILT)  ## time against activity beside dense peers; writes out/bench/ (BENCH="--pattern both")
	$(BIN)/python benchmarks/run.py $(BENCH)

format: $(READY)  ## ruff's formatter and safe fixes, clang-format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format --style=file:kernels/.clang-format -i $(CSRC) $(ONBOARD)

clean:  ## everything that can be made again, .venv included
	rm -rf $(VENV) .editable build dist out kernels/_*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
