# make repro   from a fresh clone to a registered generator
# make test    the whole test suite          make lint    formatting, lint, types, Dockerfile
# make chaos   plugs pulled out of scheduled runs, every one at every stage; some ten minutes
# make fuzz    readers of strangers' files against changed bytes: FUZZ_SECONDS each, 600 unless told
# make ui      the MLflow page on MLFLOW_PORT
# make clean   stale checkpoints, what kills left half-written and caches of tools away
# make servers MLflow, Prefect and a worker for scheduled retraining; other ports: MLFLOW_PORT, PREFECT_PORT;
#              PIX2PIX_WEBHOOK: a chat that is told of failed runs
SHELL := /bin/bash
.DEFAULT_GOAL := repro
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stages are started by dvc and must find this environment's python, activated or not.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv does not read pip's settings (pip.conf or PIP_*); a machine with an index of its own says so once, to pip.
PIP_SETTING = $(BIN)/python -m pip config get
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: repro test chaos fuzz lint ui servers clean lock

repro: $(VENV)/.installed
	@pix2pix repro

test: $(VENV)/.installed
	@python -m pytest

chaos: $(VENV)/.installed
	@python -m pytest -n 0 -m chaos

FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.installed
	@python -m fuzzing --seconds $(FUZZ_SECONDS)

lint: $(VENV)/.installed
	@ruff format --check . && ruff check . && mypy && hadolint Dockerfile

MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
ui: $(VENV)/.installed
	@pix2pix ui --port $(MLFLOW_PORT)

servers: export MLFLOW_PORT := $(MLFLOW_PORT)
servers: export PREFECT_PORT := $(PREFECT_PORT)
servers: export MLFLOW_TRACKING_URI := http://127.0.0.1:$(MLFLOW_PORT)
servers: export PREFECT_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
# As without a server, so that the pages and the files name the same places.
servers: export MLFLOW_ARTIFACTS := file://$(CURDIR)/mlartifacts
servers: export PREFECT_HOME := $(CURDIR)/.prefect
# Not the team's .env, which honcho would read and prefer.
servers: $(VENV)/.installed
	@honcho start --env /dev/null; status=$$?; test $$status = 130 || exit $$status

clean:
	@test ! -x $(BIN)/python || $(BIN)/python -m stages.train --remove-stale
	@rm -rf data/.prepare .mlflow.db.*
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

# Pinned for every platform; run it where no private index or wheel folder is set.
lock: $(VENV)/.installed
	uv pip compile -q --universal --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

# compat: a plain path instead of an import finder, which costs every Python that starts here tens of milliseconds.
$(VENV)/.installed: pyproject.toml requirements.lock
	@echo "installing into $(VENV) (once; a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; type make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/uv || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) \
	  && $(BIN)/python -m pip install -q --disable-pip-version-check uv; } || { rm -rf $(VENV); exit 2; }
	@setting() { $(PIP_SETTING) "global.$$1" 2>/dev/null || true; }; \
	  links="$$(setting find-links)"; index="$$(setting index-url)"; extra="$$(setting extra-index-url)"; \
	  export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $${PIP_FIND_LINKS:-$$links} | tr ' ' ',')}"; \
	  export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$index}}"; \
	  export UV_EXTRA_INDEX_URL="$${UV_EXTRA_INDEX_URL:-$$(echo $${PIP_EXTRA_INDEX_URL:-$$extra})}"; \
	  export UV_INDEX_STRATEGY=unsafe-best-match; \
	  $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --config-setting editable_mode=compat -c requirements.lock -e '.[dev]'
	@touch $@
