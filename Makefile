# `make compare` and `make test` need only Python and make: they build .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONPATH :=

.PHONY: compare test test-slow test-all bench lint builtin docs docs-numbers clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

compare: .venv/run.stamp  ## compare the built-in pair of models (ARGS="…" for other models)
	$(BIN)/kullback compare $(ARGS)

test: .venv/dev.stamp  ## the checks and tests that every change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto $(ARGS)

test-slow: .venv/dev.stamp  ## the tests that take minutes
	$(BIN)/python -m pytest -n auto -m slow $(ARGS)

bench: .venv/dev.stamp  ## measure interval coverage and the cost of compare
	$(BIN)/python -m benchmarks $(ARGS)

builtin: .venv/run.stamp  ## make the built-in pair of models again
	$(BIN)/python tools/make_builtin.py

docs: .venv/dev.stamp  ## write the generated parts of the docs again
	$(BIN)/python tools/make_docs.py

docs-numbers: .venv/dev.stamp  ## compute the numbers and pictures of the docs again (ARGS="gaussian …" for some)
	$(BIN)/python tools/make_numbers.py $(ARGS)

lint: .venv/dev.stamp  ## mend what ruff can mend, then check types
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:  ## forget .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[hf]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[hf,jax,report,triton,dev]'
	touch $@ .venv/run.stamp
