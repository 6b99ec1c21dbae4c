# make demo    a small study from nothing to a table, a figure and a report
# make test    everything but what needs a GPU, the hub, a night, or a minute of its own
# make real    what needs a real pretrained model (LOWBIT_SMOLLM2, see tests/real)
# make late    those that take longest: whole studies, whole trials, kills, agents
# make check   formatting, types, architecture, spelling: what CI runs before the tests
# make reproduce   the joint, the bounds and the planner study, decided and drawn from their records
# make bench   speed and memory beside peers, on this machine, in one run
# Every target does its own set-up in .venv; the first one downloads the packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Real models and data for tests and examples, where they lie beside the project.
ifneq ($(wildcard ../shared/assets/ASSETS.md),)
export LOWBIT_ASSETS ?= $(abspath ../shared/assets)
endif

.PHONY: demo test late check format bench clean nightly real reproduce

demo: $(VENV)/ready
	$(BIN)/lowbit run studies/demo

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n 2 -m "not late and not nightly and not hub and not real"

late: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n 2 -m "late and not nightly and not hub and not real"

nightly: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n 2 -m "not hub and not real"

real: $(VENV)/ready-dev
	$(BIN)/python -m pytest -m real

check: $(VENV)/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_architecture_picture.py tests/test_names.py
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md docs src tests bench experiments notebooks/quant_noise.py studies/*/study.toml studies/*/README.md

# Runs what has no record yet. The studies' records are committed, so they are only decided and drawn, which needs no
# model. `rm -r studies/NAME/results` first to run a study again, which needs LOWBIT_ASSETS with models/lm-14m (not
# published).
STUDIES := studies/joint studies/bounds studies/planner
reproduce: $(VENV)/ready
	$(BIN)/lowbit run studies/joint --jobs 2
	$(BIN)/lowbit run studies/bounds --jobs 2 --only "16 r*"
	$(BIN)/lowbit predict studies/bounds --jobs 2
	$(BIN)/lowbit run studies/bounds --jobs 2
	$(BIN)/lowbit run studies/planner --jobs 2
	for study in $(STUDIES); do \
	  $(BIN)/lowbit compare $$study && $(BIN)/lowbit draw $$study && $(BIN)/lowbit report $$study || exit 1; \
	done
	$(BIN)/python experiments/collect.py studies/bounds
	$(BIN)/python experiments/analyze.py
	$(BIN)/python experiments/analyze_results.py
	$(BIN)/python experiments/simulate_quantization.py
	$(BIN)/python experiments/export_theory.py --results results/theory

format: $(VENV)/ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In an environment of its own: torchao, once installed, is imported by others, and not quietly.
bench:
	$(MAKE) VENV=.venv-bench .venv-bench/ready-bench
	.venv-bench/bin/python bench/peers/compare.py

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .hypothesis build dist

# torch goes in before anything that depends on it: without an NVIDIA driver the CPU build, which
# saves several GB. From the configured index if it has that build, else from PyTorch's own.
$(VENV)/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lowbit needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "setting up .venv (once; a few minutes)"
	@if command -v nvidia-smi >/dev/null 2>&1 || [ "$$(uname)" = Darwin ]; then \
	  $(PIP) "torch==$(TORCH)"; \
	else \
	  $(PIP) "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) "torch==$(TORCH)" --index-url $(CPU_INDEX) 2>/dev/null \
	  || $(PIP) "torch==$(TORCH)"; \
	fi
	@touch $@

$(VENV)/ready: $(VENV)/torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) -c constraints.txt -e ".[test,check]"
	@touch $@

$(VENV)/ready-bench: $(VENV)/ready
	$(PIP) -c constraints.txt -e ".[bench]"
	@touch $@
