# `make run` runs the main job on the embedded data, `make test` checks everything.
# Both make .venv from requirements.lock first, when it is missing or stale.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
ARGS ?=

.PHONY: run test test-full lint types install clean

run: $(STAMP)
	$(IN_VENV) mlflow run . --env-manager local --experiment-name annotary $(ARGS)

# Two processes, each with one thread: most tests wait for a process, a disk or a server of their own. Files go in
# their order: by default those of few tests, which take longest, would come last, and one process wait for the other.
PYTEST = $(IN_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint types
	$(PYTEST)

test-full: test
	$(PYTEST) -m full

lint: $(STAMP)
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .

types: $(STAMP)
	$(IN_VENV) mypy

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: PYTHON=$(PYTHON) needs Python 3.11 or later; name one with PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
