# Seven words: install, demo, test, check, science, bench, fuzz.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check science bench fuzz clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

install: .venv/installed

demo: install
	$(BIN)/celladapt demo --out celladapt-demo

test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

science: install
	$(BIN)/python -m pytest -m slow

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks.performance

fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[fuzz]"
	$(BIN)/python -m reliability.fuzz --seconds 60

clean:
	rm -rf .venv build dist src/*.egg-info
