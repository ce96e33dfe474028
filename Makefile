# Two commands do everything: `make demo` and `make test`. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   ?= .venv
SECONDS_EACH ?= 42
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip --disable-pip-version-check

.PHONY: demo test test-all test-lowest fuzz lint docs format bench package clean

demo: $(VENV)/.installed  ## install, then compress a real model and prove it
	$(VENV)/bin/compressctl apply builtin:quickstart

test: $(VENV)/.installed-dev  ## what takes minutes: all but the tests that are marked slow
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow"

test-all: test  ## the slow rest as well
	$(RUN) -m pytest -n 2 --dist loadfile -m slow

test-lowest:  ## the fast tests with the oldest versions that pyproject.toml allows, in an environment of its own
	.ci/test-lowest $(PYTHON) $(VENV)-lowest

fuzz: $(VENV)/.installed-dev  ## hostile inputs for every reader, ten minutes in all; SECONDS_EACH=3 for less than one (see fuzz/README.md)
	$(RUN) fuzz/run.py --seconds $(SECONDS_EACH) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.installed-dev  ## what CI and pre-commit check
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/.installed-dev  ## the documentation as a site in build/site; a link or an anchor that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.installed-dev  ## every benchmark whose data is there (see benchmarks/README.md)
	$(RUN) benchmarks/run.py

package: $(VENV)/.installed-dev  ## wheel and sdist in dist/, checked, and the wheel tried out with PYTHON
	rm -rf dist
	$(RUN) -m hatchling build
	$(PIP) install --quiet twine && $(RUN) -m twine check --strict dist/*
	.ci/try-wheel $(PYTHON) dist/*.whl

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "compressctl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch,openvino]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[torch,openvino,nncf,dev,docs]'
	touch $@
