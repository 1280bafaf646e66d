# Targets: install, demo, deploy-demo, test, test-slow, lint, bench. Everything happens in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo deploy-demo test test-slow lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/fedrec simulate

deploy-demo: install
	$(BIN)/python -m simulations.deploy_demo

test: lint
	$(BIN)/pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/fedrec bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
