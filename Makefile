# Everything runs inside .venv, which the first target that needs it makes. `make` lists the targets.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
ARGS ?=
# Each worker has servers of its own: more than a few need more memory than time is won.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint format wheel bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.stamp-dev  ## Set up .venv with everything that the tests and linters use

demo: $(VENV)/.stamp-demo  ## Run the demo (installs only what it needs); ARGS="--catalog rest" is one variant
	@$(BIN)/batchweave demo $(ARGS)

test: $(VENV)/.stamp-dev  ## Run the tests; make test ARGS="-k name -x" passes options to pytest
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.stamp-dev  ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(VENV)/.stamp-dev  ## Rewrite the sources in the project's format
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

wheel: $(VENV)/.stamp-dev  ## Build the wheel into dist/
	@rm -rf build dist
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

bench:  ## List the benchmarks and the commands that run them
	@find tests/bench -name '[a-z]*.py' 2>/dev/null | sort | while read -r script; do \
		echo "  $(BIN)/python $$script"; \
		awk 'NR == 1 { gsub(/"""/, ""); print "      " $$0 }' "$$script"; \
	done

clean:  ## Remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'BatchWeave needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python' >&2; \
		exit 1; }
	@echo "== making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.stamp-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo '== installing BatchWeave and its dependencies (a minute or two the first time)'
	@$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo '== installing BatchWeave and its development tools (a few minutes the first time)'
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.stamp-demo $@
