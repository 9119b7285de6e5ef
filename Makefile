PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAVED_MODEL := .venv-saved-model
SAMPLES := lc_finetune/data/samples

.PHONY: setup demo test test-all check saved-model-env clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Expected Python 3.11 or newer, found $$($(PYTHON) --version). Set PYTHON=python3.11."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: setup
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/support/train.csv \
		--validation-file $(SAMPLES)/support/validation.csv --test-file $(SAMPLES)/support/test.csv \
		--output-dir runs/demo/support --overwrite
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/entities/train.jsonl \
		--validation-file $(SAMPLES)/entities/validation.jsonl --test-file $(SAMPLES)/entities/test.jsonl \
		--output-dir runs/demo/entities --overwrite
	$(BIN)/python -m chains.customer_service

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m ""

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

saved-model-env: $(SAVED_MODEL)/.installed

$(SAVED_MODEL)/.installed: requirements-saved-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
		echo "Expected Python 3.11 or 3.12, found $$($(PYTHON) --version). Set PYTHON=python3.11."; exit 1; }
	test -x $(SAVED_MODEL)/bin/python || $(PYTHON) -m venv $(SAVED_MODEL)
	$(SAVED_MODEL)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf $(VENV) $(SAVED_MODEL) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
