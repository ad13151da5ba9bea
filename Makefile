# `make demo` and `make test` do all the set-up themselves: Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=

.PHONY: help setup demo test check format up bench bench-smoke chaos clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: $(VENV)/.ready  ## Install alexq and its tools into .venv

# torch is named so that its pin is met first: left to itself pip may choose another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alexq needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch -e '.[dev]'
	@touch $@

demo: setup  ## Classify a few photographs through a whole stack
	$(BIN)/alexq demo

# Reading compiled tests saves each process ten seconds, also where a shell says not to write them.
# Most tests wait for processes, so more run at a time than there are cores; one file alone: pytest FILE.
TESTS_AT_ONCE ?= 4
test: setup  ## Run every test that needs no GPU
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal

check: setup  ## Formatting, lint, types, import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

up: setup  ## Run broker, database, worker and dashboard until Ctrl-C
	$(BIN)/alexq up

PROFILE ?= short
chaos: setup  ## Kill, stop, flood and forget, then check that nothing was lost (PROFILE=short|full)
	$(BIN)/python -m benchmarks.chaos --profile $(PROFILE) --save

bench: setup  ## Measure alexq beside one process without a queue, plain Celery and model servers (half an hour)
	$(BIN)/python -m benchmarks.throughput

bench-smoke: setup  ## Say whether the queue has become dearer than last recorded (90 seconds)
	$(BIN)/python -m benchmarks.throughput.smoke

clean:  ## Remove what set-up and tools made
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
