# make run     set up .venv and run the exporter on conf.yml
# make test    set up all that the tests need and run everything: lint, types, layering, tests
# Needs python3 (3.11 or later), make and a network; as root on Debian or Ubuntu it installs the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Many tests wait more than they compute, hence more workers than processors.
WORKERS  ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 1) + 2)))
PARALLEL := --numprocesses $(WORKERS) --dist worksteal

.PHONY: help run test check venv lint format bench lab packages constraints clean

help:
	@sed -n 's/^# //p' Makefile
	@echo 'also: venv lint format bench lab packages constraints clean'

run: $(VENV)/run.stamp
	$(BIN)/portspec -c conf.yml

test: packages lint
	$(BIN)/pytest $(PARALLEL)

check: packages lint
	$(BIN)/pytest $(PARALLEL) tests/unit

venv: $(VENV)/test.stamp

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: packages $(VENV)/test.stamp
	$(BIN)/python -m benchmarks

lab: $(VENV)/test.stamp
	$(BIN)/python -m tests.lab

# What the tests start as programs of their own; see tests/packages.txt.
packages:
	sh tests/packages.sh

# The versions that are installed, with hashes; after a change of the dependencies in pyproject.toml.
constraints: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml tests/build.in --group test -o tests/constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml tests/build.in -c tests/constraints.txt -o constraints.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'portspec needs Python 3.11 or later; name one: make PYTHON=python3.12 …'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh tests/packages.sh python3-venv
	@echo 'setting up $(VENV), once …'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp tests/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
