# `make` is what CI runs. `make help` lists everything else.

# The first Python that is new enough; 3.11 goes first because the lock of the lowest versions is made for it.
PYTHON ?= $(shell for python in python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
ARGS ?=
# Of `make nightly`.
HOURS ?= 6

VENV := .venv
LOWEST := .venv-lowest
# What users install is measured, with its bytecode, and not what lies in this directory: the finder of an editable install
# alone is a megabyte in every process. The benchmarks themselves are found by a .pth file.
INSTALLED := .venv-bench
BENCH := PYTHONSAFEPATH=1 $(INSTALLED)/bin/python
CODE := $(wildcard mesh cli bench docs tests examples)
LOCK := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml

.DEFAULT_GOAL := check

.PHONY: check
check: format-check lint types test ## format check, lint, types, tests (what `make` alone does)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: $(VENV)/.stamp ## make .venv from requirements.lock, once for each change of it

.PHONY: format
format: $(VENV)/.stamp ## write the format and the fixes that are safe
	$(VENV)/bin/ruff format $(CODE)
	$(VENV)/bin/ruff check --fix $(CODE)

.PHONY: format-check
format-check: $(VENV)/.stamp ## fail where `make format` would reformat
	$(VENV)/bin/ruff format --check $(CODE)

.PHONY: lint
lint: $(VENV)/.stamp ## ruff
	$(VENV)/bin/ruff check $(CODE)

.PHONY: types
types: $(VENV)/.stamp ## mypy, strict
	$(VENV)/bin/mypy $(filter-out examples,$(CODE))

.PHONY: test
test: $(VENV)/.stamp ## the tests; ARGS="-m 'not slow' -k lease" goes to pytest
	$(VENV)/bin/pytest $(ARGS)

.PHONY: test-lowest
test-lowest: $(LOWEST)/.stamp ## the tests with the lowest versions of the dependencies that pyproject.toml allows
	$(LOWEST)/bin/pytest $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.stamp ## mistakes in the core and the journal that the tests must notice; a sample, or ARGS="--all" (hours)
	$(VENV)/bin/python -m tests.mutants $(ARGS)

.PHONY: nightly
nightly: SHELL := /bin/bash
nightly: $(VENV)/.stamp ## ten times each kill and stop of real processes, then HOURS of storms; the log goes to tests/nightly.log
	@set -o pipefail; { \
		echo "commit $$(git rev-parse --short HEAD), $$(date -u +%F)"; \
		MESH_LOSS_SEEDS=10 MESH_LOSS_STOP_S=20 MESH_STORM_SEEDS=10 $(VENV)/bin/pytest -q -rfE -o addopts=--import-mode=importlib \
			tests/mesh/test_nothing_lost.py tests/mesh/test_kills.py && \
		$(VENV)/bin/python -m tests.sim --hours $(HOURS) --jobs 2 --table; \
	} 2>&1 | tee tests/nightly.log

.PHONY: docs
docs: $(VENV)/.stamp ## write into the docs what the code says itself: settings, commands, messages
	$(VENV)/bin/python -m docs.generate

.PHONY: bench
bench: $(INSTALLED)/.stamp ## the benchmarks, of mesh as it is installed; ARGS="--list" goes to them
	$(BENCH) -m bench $(ARGS)

.PHONY: bench-nodes
bench-nodes: $(INSTALLED)/.stamp ## how fast nodes start and end; ARGS="--soak 200000" has them come and go under load
	$(BENCH) -m bench.nodes $(ARGS)

.PHONY: demo
demo: $(VENV)/.stamp ## a mesh on this machine, from nothing to results
	@$(VENV)/bin/mesh demo $(ARGS)

.PHONY: lock
lock: $(VENV)/.stamp ## pin the newest dependencies in requirements.lock and the lowest in requirements-lowest.lock
	$(LOCK) --upgrade --extra dev --output-file requirements.lock
	$(LOCK) --upgrade --extra test --resolution lowest-direct --output-file requirements-lowest.lock

.PHONY: clean
clean: ## remove what builds and tools left behind; keeps .venv
	rm -rf build dist mutants *.egg-info .mypy_cache .pytest_cache .ruff_cache $(LOWEST) $(INSTALLED)
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp: requirements.lock pyproject.toml
	$(call fill,$(VENV),requirements.lock,--editable)

$(LOWEST)/.stamp: requirements-lowest.lock pyproject.toml
	$(call fill,$(LOWEST),requirements-lowest.lock,--editable)

$(INSTALLED)/.stamp: requirements.lock pyproject.toml $(shell find mesh cli -name '*.py')
	$(call fill,$(INSTALLED),requirements.lock,--force-reinstall)
	@echo "$(CURDIR)" > "$$($(INSTALLED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bench.pth" || { rm $@; false; }

# Fills the environment $(1) from the lock $(2); installs mesh with $(3). Its output is shown only when it fails, so that `make demo` shows the demo.
# The project goes in by itself and unisolated: everything it is built with is in the lock, under a hash.
define fill
@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "mesh needs Python 3.11 or newer, and found $(if $(PYTHON),that $(PYTHON) is not,none)." >&2; \
	echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 1; \
fi
@echo "setting up $(1) (once; about a minute)"
@log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; \
{ \
	{ [ -x $(1)/bin/pip ] || "$(PYTHON)" -m venv $(1); } && \
	$(1)/bin/pip install --disable-pip-version-check --require-hashes -r $(2) && \
	$(1)/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation $(3) . ; \
} >"$$log" 2>&1 || { \
	cat "$$log" >&2; \
	echo "could not set up $(1). If the module ensurepip or venv is missing: apt-get install python3-venv." >&2; \
	echo "Otherwise remove $(1) and try again." >&2; \
	exit 1; \
}
@touch $@
endef
