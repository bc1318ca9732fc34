# `make demo` and `make test` need Python 3.11+, g++ and git; each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check-slow lint bench docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/tamis demo

test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow'

check-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## what the demo costs and how fast training is
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/train.py

docs: $(INSTALLED)  ## everything that README and docs show is executed
	$(BIN)/pytest tests/test_docs.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
