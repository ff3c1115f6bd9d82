# What a fresh machine needs to build, test and try jrt. Every path is relative: the checkout may lie anywhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
DEMO_DOC := examples/device_summary.txt
# Rows of real documents that bundled-eval measures beside the generator's, where they are at hand.
ROWS ?= $(wildcard ../shared/data/fda510k/qa_eval.jsonl.gz ../shared/data/squad/eval.jsonl.gz)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format types pytest bundled bundled-eval clean
.DELETE_ON_ERROR:

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo "PYTHON=python3.12 picks the interpreter (3.11 or newer); PYTEST_ARGS='-k goldens' goes to pytest."

# The stamp is written last, so an installation that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "jrt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV): some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP)  ## build .venv and install jrt into it

demo: $(STAMP)  ## ask the bundled model three questions, and a small causal one in three orders of reading
	$(BIN)/jrt ask --doc $(DEMO_DOC) \
	  --question "Measurand:" \
	  --question "Applicant:" \
	  --question "What is the shelf life?"
	@echo; echo "The same document, a causal model with a small state: once, question first, twice"; echo
	$(BIN)/jrt ask --model tiny-causal --compare --doc $(DEMO_DOC) \
	  --question "What is the shelf life?" --answer "14 months" \
	  --question "Panel:" --answer "Immunology (82)"

test: lint types pytest  ## lint, types and the whole test suite

lint: $(STAMP)  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

pytest: $(STAMP)  ## the test suite alone
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(PYTEST_ARGS)

bundled: $(STAMP)  ## train the bundled models again, into runs/, and measure them; run it again to go on
	JRT=$(BIN)/jrt PYTHON=$(BIN)/python sh examples/train_bundled.sh

bundled-eval: $(STAMP)  ## measure the bundled models: the numbers of the README
	$(BIN)/python examples/measure_bundled.py $(foreach file,$(ROWS),--rows $(file))

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
