# Targets with a line of their own in `make help` have it after "##".

VENV := .venv
BIN  := $(VENV)/bin
SECONDS  ?= 60
JOBS     ?= 1
# Many tests wait more than they compute, hence more workers than processors; each worker takes 7 s of CPU to collect.
WORKERS  ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 1) + 2)))
# Compiled modules are kept, as both the tests and the programs that they start load a thousand of them.
unexport PYTHONDONTWRITEBYTECODE
# Each module runs in one process, as its fixtures may boot a machine; the long ones, in tests/e2e, come before others.
PARALLEL := --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: help run screenshots test check compiled matrix matrix-quick venv lint format helm bench fuzz soak-truth audit lab packages \
	constraints generated reliability manifests dist deb clean

help:  ## show this list
	@echo 'portspec needs python3 (3.11 or later), make and a network; as root on Debian or Ubuntu, make installs the rest.'
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20
	@echo 'make PYTHON=python3.12 … takes another interpreter, make WORKERS=1 … runs the tests one after the other.'

run:  ## set up .venv and run the exporter on conf.yml
	@sh tests/venv.sh run
	$(BIN)/portspec -c conf.yml

test: packages venv  ## set up all that the tests need and run everything
	@$(MAKE) --no-print-directory --jobs=2 --output-sync helm lint compiled matrix-quick
	$(BIN)/pytest $(PARALLEL)

# Compile whatever the tests import, once: from a fresh checkout each worker would do so, all at the same time. What is
# wrong here is told by the tests themselves.
compiled: venv
	@$(BIN)/pytest --collect-only --quiet >/dev/null 2>&1 || true

check: packages lint  ## lint and the unit tests, but for those of the commands, which start the program
	$(BIN)/pytest $(PARALLEL) tests/unit --ignore=tests/unit/cli

matrix: venv  ## the unit tests under each Python that is found, and with the oldest libraries that pyproject.toml allows
	$(BIN)/python -m tests.matrix --workers $(WORKERS)

matrix-quick: venv
	$(BIN)/python -m tests.matrix --workers $(WORKERS) --quick

venv:  ## set up .venv for development
	@sh tests/venv.sh test

lint: venv  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv  ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: packages venv  ## measure beside nmap, masscan, zmap and RustScan
	@sh benchmarks/rustscan.sh
	$(BIN)/python -m benchmarks

soak-truth: packages venv  ## spoil 200 scans in each of many ways, and count wrong verdicts (hours)
	$(BIN)/python -m tests.lab.spoiling

audit: venv  ## ask PyPI for known vulnerabilities of the pinned dependencies (pip-audit)
	$(BIN)/python -m tests.advisories

fuzz: venv  ## fuzz what strangers can send: SECONDS=60 for each harness, JOBS=1 at a time, HARNESS=… for some of them
	@sh tests/fuzz/install.sh $(BIN)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --jobs $(JOBS) $(HARNESS)

lab: venv  ## a shell in a small network of hosts whose truth is known
	@$(BIN)/python -m tests.lab

packages:  ## install the Debian packages that the tests start as programs, as root
	@sh tests/packages.sh
	@sh tests/exim.sh

helm:
	@sh tests/helm.sh

constraints: venv  ## pin the newest versions of all dependencies, with hashes; after a change of those in pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml tests/build.in --group test --group release -o tests/constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		pyproject.toml tests/build.in -c tests/constraints.txt -o constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--group fuzz -o tests/fuzz/constraints.txt

generated: venv  ## write dashboards, completion, manual pages and copies in the Helm chart again, after a change
	$(BIN)/python -m grafana.source
	$(BIN)/python deploy/generate.py

reliability: packages venv  ## run the tests of faults, and write docs/reliability.md from them
	$(BIN)/python -m tests.faults $(PARALLEL)

screenshots: venv  ## take the pictures of docs/images again (the lab and chromium)
	$(BIN)/python -m tests.screenshots

manifests: helm  ## render deploy/kubernetes/ from the Helm chart again, after a change of the chart
	sh deploy/kubernetes/render.sh >deploy/kubernetes/new
	mv deploy/kubernetes/new deploy/kubernetes/portspec.yaml

dist: venv  ## build the source distribution, the wheel and the bill of materials in dist/
	rm -rf dist
	$(BIN)/hatchling build
	sh deploy/sbom.sh dist

deb: dist  ## build a package for this release of Debian or Ubuntu in dist/; needs python3-venv
	sh deploy/debian/build.sh dist/*.whl dist

clean:  ## remove .venv and all that tools left behind
	rm -rf $(VENV) .packages build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
