# The two commands of the README. Each sets up what it needs in .venv first.
PYTHON ?= python3

.PHONY: demo test check coverage lint setup clean

demo: setup
	@.venv/bin/python scripts/demo.py

test:
	@$(PYTHON) scripts/setup.py --system
	@EDGEKIT_DATA="$(EDGEKIT_DATA)" .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Lint, types and the unit tests with their coverage: what to run before every commit.
check: lint
	@EDGEKIT_DATA="$(EDGEKIT_DATA)" .venv/bin/python -m pytest tests/unit -n auto --maxprocesses 4 --cov=edgekit

# Of all tests together.
coverage:
	@$(PYTHON) scripts/setup.py --system
	@EDGEKIT_DATA="$(EDGEKIT_DATA)" .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov=edgekit

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

setup:
	@$(PYTHON) scripts/setup.py

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
