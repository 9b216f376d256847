# Kezek. `make run` runs the platform, `make test` proves it, `make check` is what a commit must pass.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
JOBENV := .jobenv
# Test files that run side by side, each with servers of its own.
WORKERS ?= 2
BIN := $(VENV)/bin
# The cache of the installer: the user's own where there is a home folder, else inside the checkout.
export UV_CACHE_DIR ?= $(if $(HOME),$(HOME)/.cache/uv,$(CURDIR)/.stamps/uv)
export UV_LINK_MODE ?= $(if $(HOME),hardlink,copy)
export UV_NO_PROGRESS := 1
# The machine's own certificates: a network may have an authority of its own.
export UV_SYSTEM_CERTS ?= 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help run test check format install dev jobenv lock chart nightly clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: install jobenv ## Run the whole platform here and play a small workload (ONCE=1 ends by itself)
	@exec $(BIN)/kezek-server up $(if $(ONCE),--once)

test: dev jobenv ## Set up what the tests need and pass the whole suite
	tests/setup.sh
	$(BIN)/python -m pytest -m "not nightly" -n $(WORKERS) --dist loadfile $(ARGS)

nightly: dev jobenv ## The slow proofs, with many more examples
	tests/setup.sh
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: dev ## Lint, types, import contracts, lock files, branches of the core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p api -p products -p metrics -p scheduler -p quota -p tenants -p store -p kezek
	$(BIN)/lint-imports
	! grep -nE 'https?://|index-url|find-links' requirements/*.lock
	$(BIN)/python -m pytest -q -n $(WORKERS) tests/core tests/products tests/tenants/test_identifiers.py tests/metrics/test_{attribution,efficiency,idle}.py --cov --cov-report=term-missing:skip-covered

format: dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: .stamps/server ## Make the platform's environment (.venv)
dev: .stamps/dev ## Add what lint, types and tests need
jobenv: .stamps/jobenv ## Make the environment that jobs run in (.jobenv)

$(BIN)/uv: requirements/uv.lock
	@echo "making the environment in $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Kezek needs Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip' || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	touch $@

.stamps/server: $(BIN)/uv requirements/server.lock pyproject.toml kezek/pyproject.toml
	@echo "installing the platform"
	mkdir -p .stamps
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/server.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --no-index -e . -e kezek
	$(BIN)/python -m compileall -q api products metrics scheduler quota tenants store kezek/src
	touch $@

.stamps/dev: .stamps/server requirements/dev.lock
	@echo "installing what lint, types and tests need"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.lock
	touch $@

.stamps/jobenv: $(BIN)/uv requirements/job.lock
	@echo "making the environment of jobs in $(JOBENV)"
	mkdir -p .stamps
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(JOBENV)
	$(BIN)/uv pip install --quiet --python $(JOBENV)/bin/python --compile-bytecode --require-hashes -r requirements/job.lock
	touch $@

lock: $(BIN)/uv ## Compile the hash-locked requirements anew
	for name in uv server; do $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.lock; done
	for name in dev job; do $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/server.lock requirements/$$name.in -o requirements/$$name.lock; done

chart: install ## Make what the Helm chart has from elsewhere: settings, rules, dashboards, schema, README
	PYTHONPATH=. $(BIN)/python helm/generate.py

clean: ## Remove environments and caches; the state in var/ stays
	rm -rf $(VENV) $(JOBENV) .stamps .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
