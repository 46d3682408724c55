# Two commands need nothing but Python 3.11 and a package registry:
#   make demo   the whole chain, from physics to a figure
#   make test   lint, types, import arrows and the test suite
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO_HOME ?= .

.PHONY: demo smoke test lint types pytest format clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/rwm demo --home $(DEMO_HOME)

smoke: .venv/ready
	$(BIN)/rwm demo --smoke --home $(DEMO_HOME)

test: lint types pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

pytest: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
