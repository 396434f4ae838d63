# Install, demo, test, check, science, bench; faults, faults-long, endurance, fuzz; lock, licences, sbom: what is installed, under which terms, and the list of it for others.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
SBOM := dist/celladapt-sbom.cdx.json

.PHONY: install demo test check science bench faults faults-long endurance fuzz lock licences sbom clean

# The lock first, then the project itself with the locked setuptools, so that nothing is fetched that is not in the lock.
.venv/installed: pyproject.toml supply/cpu.lock supply/test.lock supply/cuda.lock
	$(PYTHON) -m venv .venv
	$(PIP) --requirement supply/cpu.lock 2>/dev/null || true  # PyTorch's CPU build, where pip is offered one
	$(PIP) --requirement supply/test.lock
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) --requirement supply/cuda.lock  # PyPI's torch for Linux cannot be imported without
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

.venv/%: supply/%.lock .venv/installed
	$(PIP) --requirement $<
	touch $@

install: .venv/installed

demo: install
	$(BIN)/celladapt demo --out celladapt-demo

test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: install
	$(BIN)/python -m pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

science: install
	$(BIN)/python -m pytest -m slow

bench: .venv/bench
	$(BIN)/python -m benchmarks.performance

faults: install
	$(BIN)/python -m reliability.faults --kills 8

faults-long: install
	$(BIN)/python -m reliability.faults --kills 200 --write docs/reliability/faults.json

endurance: install
	$(BIN)/python -m reliability.endurance

fuzz: .venv/fuzz
	$(BIN)/python -m reliability.fuzz --seconds 60

lock: .venv/supply
	$(BIN)/python -m supply.lock $(UPGRADE)

licences: .venv/napari .venv/bench .venv/fuzz .venv/supply
	$(BIN)/python -m supply.licences docs/licences.md

sbom: .venv/supply
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible --validate --output-file $(SBOM) .venv

clean:
	rm -rf .venv build dist src/*.egg-info
