# make repro   from a fresh clone to a registered generator
# make test    the whole test suite          make lint    formatting, lint, types
# make ui      the MLflow page on port 5000  make clean   stale checkpoints and caches of tools
SHELL := /bin/bash
.DEFAULT_GOAL := repro
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stages are started by dvc and must find this environment's python, activated or not.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv does not read pip's settings; a machine with its own wheels or index says so once, to pip.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_EXTRA_INDEX_URL ?= $(PIP_EXTRA_INDEX_URL)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: repro test lint ui clean lock

repro: $(VENV)/.installed
	@pix2pix repro

test: $(VENV)/.installed
	@python -m pytest

lint: $(VENV)/.installed
	@ruff format --check . && ruff check . && mypy

ui: $(VENV)/.installed
	@pix2pix ui

clean:
	@rm -rf .checkpoints .pytest_cache .mypy_cache .ruff_cache build *.egg-info

# Pinned for every platform; run it where no private index or wheel folder is set.
lock: $(VENV)/.installed
	env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL -u UV_DEFAULT_INDEX \
	  uv pip compile -q --universal --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

$(VENV)/.installed: pyproject.toml requirements.lock
	@echo "installing into $(VENV) (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c requirements.lock -e '.[dev]'
	@touch $@
