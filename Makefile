# Everything from a machine that has Python 3.11 (with venv) and make: `make demo` or `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := demo-output
SOURCES := genzoo tests benchmarks docs/conf.py docs/kinds_figure.py
# one thread a process: faster than two on small batches, and the same numbers on every machine
ENV := OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore::DeprecationWarning
# a process a core; the tests of a file share what they train, so they stay together
WORKERS ?= -n auto --dist loadfile
# demo: the models, longest training time of each in minutes, how many at the same time, which one samples and imputes
DEMO_MODELS ?= independent,gaussian,mixture,maf,spline_flow,forest_autoregressive
DEMO_MINUTES ?= 2
DEMO_JOBS ?= 2
DEMO_BEST ?= spline_flow

.PHONY: help demo test test-slow lint docs bench clean

help:
	@echo "make demo       train models on Adult (census rows), write a report, synthetic and imputed tables"
	@echo "make test       the tests that take minutes at most in all"
	@echo "make test-slow  the longer checks too, and new random tables"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation, in docs/_build/html"
	@echo "make bench      speed against other libraries"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is older; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# one stamp for each set of extras, so that nothing is installed twice
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-%: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@rm -rf $(DEMO)
	$(ENV) $(BIN)/genzoo compare genzoo:adult --models $(DEMO_MODELS) --minutes $(DEMO_MINUTES) --jobs $(DEMO_JOBS) \
		--run_dir $(DEMO)/runs -o $(DEMO)/report.html
	$(ENV) $(BIN)/genzoo sample $(DEMO)/runs/$(DEMO_BEST) -n 1000 -o $(DEMO)/synthetic.csv
	$(ENV) $(BIN)/genzoo impute $(DEMO)/runs/$(DEMO_BEST) genzoo:adult -o $(DEMO)/imputed.csv
	@echo
	@echo "report          $(DEMO)/report.html"
	@echo "synthetic rows  $(DEMO)/synthetic.csv"
	@echo "imputed table   $(DEMO)/imputed.csv"

test: $(VENV)/.installed-dev
	$(ENV) $(BIN)/python -m pytest $(WORKERS)

test-slow: $(VENV)/.installed-dev
	$(ENV) $(BIN)/python -m pytest $(WORKERS) -m "not gpu" --hypothesis-profile=search

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(ENV) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed-bench
	@for script in benchmarks/*.py; do echo "== $$script"; $(ENV) $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(DEMO) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
