# `make help` lists what there is. Only python3 (3.11 or newer), make and git are needed to start.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
UV := uv==0.13.9

# Also what `make test ARGS="-k rules"` passes on.
ARGS ?=
# Processes that run tests: they wait for disks and other processes a third of their time.
TEST_JOBS ?= $(shell echo $$((($$(nproc 2>/dev/null || echo 2) * 3 + 1) / 2)))
# How many inputs `make fuzz` tries.
N ?= 1000000

# One line that names the remedy, or nothing if this Python can carry a virtual environment.
define REMEDY
import importlib.util as u, sys
v = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    print("Python 3.11 or newer is needed, this is " + v + ": install one, then type  make venv PYTHON=python3.11")
elif sys.maxsize < 2**32:
    print("A 64-bit Python is needed: install one, then type  make venv PYTHON=/path/to/python3")
elif u.find_spec("venv") is None or u.find_spec("ensurepip") is None:
    print("This Python has no venv module; on Debian and Ubuntu type  apt-get install python3-venv")
endef
export REMEDY

# What `make sim` plays: SEEDS from FIRST on, in JOBS processes; or one SEED, all of it told. Of
# `make sim-breaks` SEEDS is how many each of the BREAKS may take (all of them without any).
SEEDS ?= 1000
FIRST ?= 0
BREAKS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

# Which runs `make faults` plays: those with these words in their names, like "sqlite cancel till:".
ONLY ?=

.PHONY: help venv demo test check bench attacks fuzz sim sim-breaks faults breaks format lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-15s %s\n' "$$name" "$$text"; done

venv: $(VENV)/.installed  ## the virtual environment in .venv, with the locked dependencies

$(VENV)/.locked: requirements-dev.lock
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
		echo "There is no $(PYTHON); on Debian and Ubuntu type  apt-get install python3 python3-venv"; exit 1; }
	@remedy=$$("$(PYTHON)" -c "$$REMEDY") || { echo "$(PYTHON) does not run"; exit 1; }; \
		if [ -n "$$remedy" ]; then echo "$$remedy"; exit 1; fi
	@$(PIP) --version >/dev/null 2>&1 || { echo "Making the virtual environment in $(VENV) ..."; \
		"$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing the locked dependencies (about a minute the first time) ..."
	@$(PIP) install --no-deps --no-compile --require-hashes --only-binary :all: \
		-r requirements-dev.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked setup.cfg pyproject.toml
	@echo "Installing CarePOS from this folder ..."
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv  ## the relief of a flooded township, played with real processes; SERVE=1 leaves them running
	@SERVE="$(SERVE)" $(BIN)/python -m sample_merchant.demo

test: venv  ## every test, on SQLite and PostgreSQL; ARGS="-k rules" picks some
	@$(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv  ## lint, format, types, and the dependency arrows
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))'

bench: venv  ## measurements: a table here, results in bench-out/results.json
	@$(BIN)/python -m benchmarks

attacks: venv  ## thousands of attacks on identity tokens, ours beside bare PyJWT
	@$(BIN)/python -m tests.attacks_report

fuzz: venv  ## mutated tokens, cards and key sets; N=1000000 of them, with atheris if it is installed
	@$(BIN)/python -m tests.fuzz_tokens $(N)

sim: venv  ## tills, network and ledger simulated under seeds; SEEDS=10000, or SEED=123 to replay one
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED) --skip "$(SKIP)",--seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS))

sim-breaks: venv  ## the product broken on purpose, way by way: which seed of the simulation sees it
	@$(BIN)/python -m tests.sim.breaks --seeds $(SEEDS) --jobs $(JOBS) $(BREAKS)

faults: venv  ## till and ledger killed at every point while the network lies; ONLY="sqlite cancel" picks some
	@$(BIN)/python -m tests.faults --only "$(ONLY)" --jobs $(JOBS)

breaks: venv  ## the product broken on purpose, way by way: which ordinary test sees it
	@$(BIN)/python -m tests.breaks --jobs $(JOBS)

format: venv  ## mend what ruff can mend, and format
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

lock: venv  ## solve the dependencies anew into requirements-dev.lock (needs the package registry)
	@$(PIP) install "$(UV)"
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m uv pip compile --quiet --upgrade \
		--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
		--no-emit-index-url --no-emit-find-links --extra all \
		setup.cfg requirements-dev.in --output-file requirements-dev.lock

clean:  ## remove everything that was made here, the virtual environment too
	@rm -rf $(VENV) build dist demo-out bench-out .coverage .coverage.* htmlcov \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
