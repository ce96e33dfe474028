# Two commands do everything: `make demo` and `make test`. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip --disable-pip-version-check

.PHONY: demo test lint format bench clean

demo: $(VENV)/.installed  ## install, then compress a real model and prove it
	$(VENV)/bin/compressctl apply recipes/quickstart.yaml

test: $(VENV)/.installed-dev  ## the whole suite
	$(RUN) -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev  ## what CI and pre-commit check
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.installed-dev  ## every benchmark whose data is there (see benchmarks/README.md)
	$(RUN) benchmarks/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "compressctl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch,openvino]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch,openvino,nncf,dev]'
	touch $@
