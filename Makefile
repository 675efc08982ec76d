# Everything runs in .venv; only python3.11 and make are assumed.
SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV   := .venv
PYTHON := $(VENV)/bin/python
# Only files that have examples: importing all takes twice as long, and MLflow warns on import.
EXAMPLES = $(shell grep -rlE '^ *>>> ' --include='*.py' --include='*.md' \
    consilo silos flows dashboards benchmarks docs README.md)
READY  := $(VENV)/ready-$(shell cat requirements.lock pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)

# A third of the tests' time is waiting for processes, so that three workers keep two cores busy.
WORKERS ?= 3
SOAK ?= 500000
PYTEST := $(PYTHON) -m pytest --durations=10

.PHONY: help setup demo test test-unit test-slow soak check format lock clean

help:
	@echo "make setup   install everything into $(VENV), once"
	@echo "make demo    run a whole federation on this machine"
	@echo "make test    run the tests, by WORKERS=3 processes"
	@echo "make test-unit  only those that start no server and no federation"
	@echo "make soak    play SOAK=500000 schedules of faults (tests/simulation)"
	@echo "make check   lint, types and the examples in docstrings, as CI does"
	@echo "make format  format the code"
	@echo "make lock    pin what is installed now into requirements.lock"

setup: $(READY)

# The mark is made last, so an interrupted set-up starts over where pip left off. The lock is also
# the constraint: else pip tries every newer version for a package that is asked for with an extra.
$(READY):
	@echo "setup 1/3: virtual environment in $(VENV)"
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || python3.11 -m venv --clear $(VENV)
	@echo "setup 2/3: locked packages: download (0.5 GB), unpack (1.8 GB), byte-compile (20,000 files);"
	@echo "           some minutes the first time, most of the computing on one core"
	@$(PYTHON) -m pip install --disable-pip-version-check --no-input --progress-bar off \
	    -r requirements.lock -c requirements.lock | sed '/already satisfied/d'
	@$(PYTHON) -m pip check --disable-pip-version-check
	@echo "setup 3/3: consilo itself"
	@rm -rf consilo.egg-info  # an old one here would hide new commands from the tests
	@$(PYTHON) -m pip install --disable-pip-version-check --no-input -q --no-deps \
	    --no-build-isolation -e .
	@rm -f $(VENV)/ready-* && touch $@
	@echo "setup done"

demo: setup
	@$(VENV)/bin/consilo demo

test: setup
	@$(PYTEST) -n $(WORKERS)

test-unit: setup
	@$(PYTEST) -n $(WORKERS) -m "not (federation or flow or slow)"

test-slow: setup
	@$(PYTEST) -m slow

# Each an own range of seeds, by WORKERS processes; about two hours on two cores.
soak: setup
	@seq 0 $$(( $(SOAK) / 1000 - 1 )) | xargs -P $(WORKERS) -I{} \
	    $(PYTHON) tests/simulation --first {}000 --seeds 1000

check: setup
	@echo "check 1/3: lint and format"
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@echo "check 2/3: types"
	@$(PYTHON) -m mypy
	@echo "check 3/3: the examples in docstrings and pages do what they say"
	@$(PYTHON) -m pytest -q --doctest-modules --doctest-glob='*.md' $(EXAMPLES)

format: setup
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

lock:
	@$(PYTHON) -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' \
	    | grep -v -i -E '^(pip)==' > requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
