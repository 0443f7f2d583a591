# polydiff. `make` lists the targets; every target builds the environment first if need be.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo check test test-slow evidence-images evidence-text evidence-tabular evidence-timeseries docs format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: .venv/installed ## create .venv and install polydiff with its development tools

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polydiff needs Python 3.11 or newer; this is %s: run make PYTHON=python3.12" % sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing polydiff into .venv (torch is large: this takes a minute or more) …"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on -e '.[dev]'
	@touch $@

demo: install ## train, sample and measure a generator of digits; writes demo/report.html
	@$(BIN)/polydiff demo --out demo

check: install ## formatting, lint, types, layering, ledger
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/ledger.py --check
	$(BIN)/python docs/benchmarks.py --check

test: install ## the fast suite, under five minutes on two cores
	$(PYTEST) -q -m "not slow" -n 2

test-slow: install ## trainings, statistics and timings, one after the other
	$(PYTEST) -q -m slow

evidence-images: install ## train the image recipes and record their figures (half an hour on two cores)
	$(BIN)/python tests/evidence/images_digits.py
	$(BIN)/python tests/evidence/images_mnist.py

evidence-text: install ## train masked and left-to-right models of text and record their figures (an hour on one core)
	$(BIN)/python tests/evidence/text_shakespeare.py

evidence-tabular: install ## fit the table recipes, measure them beside baselines and record the figures (two hours on one core)
	$(BIN)/python tests/evidence/tabular_tables.py
	$(BIN)/python tests/evidence/tabular_imputation.py
	$(BIN)/python tests/evidence/tabular_small.py
	$(BIN)/python tests/evidence/tabular_speed.py

evidence-timeseries: install ## forecasts, holes, synthesis and systems of time series beside baselines (three hours on one core)
	$(BIN)/python tests/evidence/timeseries_baselines.py
	$(BIN)/python tests/evidence/timeseries_forecast.py
	$(BIN)/python tests/evidence/timeseries_refine.py
	$(BIN)/python tests/evidence/timeseries_imputation.py
	$(BIN)/python tests/evidence/timeseries_irregular.py
	$(BIN)/python tests/evidence/timeseries_synthesis.py
	$(BIN)/python tests/evidence/timeseries_rolling.py
	$(BIN)/python tests/evidence/timeseries_speed.py
	$(BIN)/python tests/evidence/timeseries_element_times.py
	$(BIN)/python tests/evidence/timeseries_dynamics.py
	$(BIN)/python tests/evidence/timeseries_falda.py
	$(BIN)/python tests/evidence/timeseries_erp.py

docs: install ## generate the ledger and the benchmark page
	$(BIN)/python docs/ledger.py
	$(BIN)/python docs/benchmarks.py

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and everything generated
	rm -rf .venv demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
