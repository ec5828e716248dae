PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install quickstart test fuzz studies docs dist check clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: install  ## Collect, train Scaled QL and BC, evaluate, report: about 15 minutes on 2 cores.
	$(BIN)/scaledq quickstart --out quickstart

test: install  ## What CI runs.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -n 3 --dist worksteal -q

fuzz: install  ## 1,000 broken files of every source format; CI makes 150 of each.
	SCALEDQ_FUZZ=1000 $(BIN)/pytest -q tests/data/sources/test_fuzz.py

studies: install  ## Every study at smoke scale, and one on Ray; CI runs three.
	SCALEDQ_STUDIES=all $(BIN)/pytest -q tests/study/test_studies.py

docs: install  ## The documentation as a site, in site/; a link that leads nowhere fails.
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict --quiet

dist: install  ## Wheel and source distribution, tried in empty environments outside the repository.
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	PYTHON=$(PYTHON) .ci/dist

check: test

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .ruff_cache .hypothesis
