# finetui: `make demo` and `make test` each work alone on a fresh clone.
# Needed beforehand: python3.11 or newer, make and a package index. Nothing else.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Exact versions; of torch too: a machine with a local CPU wheel takes that one, a GPU server
# takes the CUDA build.
LOCKED := --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-slurm faults check audit format bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "finetui needs python3.11 or newer on PATH"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing finetui and what training needs into $(VENV) (a few minutes the first time)"
	$(PIP) --editable ".[train]" $(LOCKED)
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "installing what tests and checks need into $(VENV)"
	$(PIP) --editable ".[dev]" $(LOCKED)
	@touch $@

install: $(VENV)/.train  ## create .venv and install finetui with training
install-dev: $(VENV)/.dev  ## the same, with what tests and checks need

demo: install  ## the whole loop on the sample workspace (opens the TUI on a terminal)
	@$(BIN)/finetui demo

test: install-dev  ## run all tests
	@$(BIN)/python -m pytest tests

faults: install-dev  ## kill, fill and hang things at full length (an hour), and print the figures
	@$(BIN)/python -m pytest tests -m figures -s

test-slurm: install-dev  ## runs on a real Slurm on the loopback address (root; installs it)
	@scripts/slurm-test-cluster.sh install || true
	@FINETUI_TEST_SLURM=1 $(BIN)/python -m pytest tests/slurm -rs

check: install-dev  ## lint, types and the walls between the rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

audit: | $(BIN)/python  ## ask for known holes in the libraries of this release (pip-audit)
	@$(BIN)/python scripts/audit.py

format: install-dev  ## format and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: install-dev  ## speed and memory as ratios (see benchmarks/)
	@for file in $(filter-out benchmarks/corpus.py,$(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$file"; $(BIN)/python $$file || echo "(a figure was missed)"; done

clean:  ## remove what builds and tests left (never a workspace)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
