PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAVED_MODEL := .venv-saved-model
SAMPLES := lc_finetune/data/samples
DECISIONS := $(VENV)/decisions

.PHONY: setup demo test test-all test-decisions gpu check docs saved-model-env clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Expected Python 3.11 or newer, found $$($(PYTHON) --version). Set PYTHON=python3.11."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,docs]'
	@touch $@

demo: setup
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/support/train.csv \
		--validation-file $(SAMPLES)/support/validation.csv --test-file $(SAMPLES)/support/test.csv \
		--output-dir runs/demo/support --overwrite
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/entities/train.jsonl \
		--validation-file $(SAMPLES)/entities/validation.jsonl --test-file $(SAMPLES)/entities/test.jsonl \
		--output-dir runs/demo/entities --overwrite
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/sentiment/train.csv \
		--validation-file $(SAMPLES)/sentiment/validation.csv --test-file $(SAMPLES)/sentiment/test.csv \
		--output-dir runs/demo/sentiment --epochs 4 --overwrite
	$(BIN)/python -m lc_finetune.train --train-file $(SAMPLES)/pairs/train.csv \
		--validation-file $(SAMPLES)/pairs/validation.csv --test-file $(SAMPLES)/pairs/test.csv \
		--output-dir runs/demo/interest --overwrite
	$(BIN)/python -m chains.customer_service
	$(BIN)/python -m chains.finance_monitor
	$(BIN)/python -m chains.recommendation

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: setup
	$(BIN)/python -m pytest -n auto --dist loadfile -m ""

gpu: setup
	$(BIN)/python -m pytest -m cuda
	$(BIN)/python -m benchmarks.gpu

# Newer LangChain beside the environment, which stays as it is.
test-decisions: $(DECISIONS)/.installed
	PYTHONPATH=$(DECISIONS) $(BIN)/python -m pytest tests/test_decisions.py

$(DECISIONS)/.installed: constraints-decisions.txt $(STAMP)
	rm -rf $(DECISIONS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(DECISIONS) \
		-r constraints-decisions.txt
	@touch $@

check: setup docs
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

# The pages as a site, which loads nothing from elsewhere.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@! grep -rlE --include='*.html' '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site || { \
		echo "Expected pages that load nothing from elsewhere, found these."; exit 1; }

clean:
	rm -rf $(VENV) $(SAVED_MODEL) runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis
