# Two commands: `make demo` shows what dinoscope does, `make test` checks it. Each does all set-up.
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= demo_output
PYTEST_ARGS ?=

.PHONY: help setup system-libraries demo test lint types imports manifest wheel pytest clean

help:
	@echo "make demo   set up, run the demo offline, write $(DEMO_OUTPUT)/ (and open napari where there is a display)"
	@echo "make test   set up, then lint, types, import rules, manifest, wheel and tests"
	@echo "make clean  remove the virtual environment and what the commands above wrote"

setup:
	@tools/setup-python.sh $(VENV)

system-libraries:
	@tools/setup-system.sh

demo: setup
	@$(BIN)/dinoscope demo --output $(DEMO_OUTPUT)
	@if [ -n "$${DISPLAY:-}" ] && [ -z "$${CI:-}" ]; then \
	    tools/setup-system.sh && $(BIN)/python tools/show_demo.py $(DEMO_OUTPUT); \
	else \
	    echo "No display, or CI is set: see $(DEMO_OUTPUT)/overview.png"; \
	fi

test: setup system-libraries lint types imports manifest wheel pytest

lint: setup
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@echo "== mypy"
	@$(BIN)/mypy

imports: setup
	@echo "== import-linter"
	@$(BIN)/lint-imports

manifest: setup
	@echo "== npe2 validate"
	@$(BIN)/npe2 validate napari-dinoscope --imports

wheel: setup
	@echo "== wheel"
	@$(BIN)/python tools/check_wheel.py

pytest: setup
	@echo "== pytest"
	@$(BIN)/python -m pytest -n 2 --durations 25 $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
