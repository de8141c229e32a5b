# `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
LOWEST_VENV := .venv-lowest
BENCH_STAMP := $(BENCH_VENV)/.installed
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --no-header \
	--no-emit-package session-client --no-emit-package session-contracts

# Tests mostly wait: three at a time, each with servers of its own, are quicker even on two cores.
ON_TESTS := -m pytest -n 3 --dist worksteal
PYTEST := $(BIN)/python $(ON_TESTS)

.PHONY: help setup servers bench bench-quick demo test test-lowest test-fresh check faults soak fuzz docker-test run lock
.PHONY: clean

help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -nE 's/^([a-z-]+):.*## (.*)/make \1: \2/p' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the project and its tools into .venv

PROJECTS := pyproject.toml client/pyproject.toml contracts/pyproject.toml
$(STAMP): requirements-dev.lock $(PROJECTS) scripts/make-venv
	@scripts/make-venv $(VENV)
	@touch $@

servers: ## Install RabbitMQ and PostgreSQL (Debian's packages) if they are missing; starts neither
	@scripts/install-servers

# Without it the tests of the alert rules are skipped; it does not keep the others from running.
.PHONY: promtool
promtool: setup
	@scripts/install-servers prometheus </dev/null || true

bench: servers $(BENCH_STAMP) ## Measure this worker beside its peers (about an hour) and write docs/benchmarks.md
	@$(MAKE) --no-print-directory -C benchmarks/peers
	@$(BENCH_VENV)/bin/python -m benchmarks.run --out benchmarks/results/latest.json
	@$(BENCH_VENV)/bin/python -m benchmarks.report benchmarks/results/latest.json

bench-quick: servers setup ## See that the benchmarks run and every answer is right; times mean nothing here
	@$(BIN)/python -m benchmarks.run drain --contestants echo,ours-sqlite,ours-postgresql \
		--requests 500 --repetitions 1

$(BENCH_STAMP): requirements-bench.lock $(PROJECTS) scripts/make-venv
	@scripts/make-venv $(BENCH_VENV) requirements-bench.lock
	@touch $@

demo: servers setup ## Send 1,000 requests through a private broker and see what becomes of them
	@$(BIN)/session-worker demo

test: servers setup promtool ## Run all tests, against private servers
	@$(PYTEST)

test-lowest: servers setup promtool ## Run all tests with the oldest versions that pyproject.toml allows, with PYTHON=python3
	@rm -rf $(LOWEST_VENV)
	@mkdir -p build
	@$(BIN)/python scripts/lowest.py >build/lowest.txt
	@scripts/make-venv $(LOWEST_VENV) build/lowest.txt
	@$(LOWEST_VENV)/bin/python $(ON_TESTS)

SUITES ?= bookworm trixie
test-fresh: ## Run the demo and all tests in fresh Debians, as root and as a user; SUITES="bookworm trixie"
	@scripts/test-fresh "$(SUITES)"

check: servers setup promtool ## What must pass before a commit: format, lint, types, import rules, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST)

faults: servers setup ## Break workers, servers and networks at every step, and soak for two minutes
	@$(PYTEST) tests/faults

MINUTES ?= 30
SEED ?= 1
LEDGER ?= both
soak: servers setup ## A storm of random faults; MINUTES=30 SEED=1 LEDGER=both (or sqlite, postgresql)
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED) --ledger $(LEDGER)

RUNS ?= 1000000
fuzz: setup ## Fuzz the decoders of bodies and of properties, guided by coverage; RUNS=1000000 each
	@$(BIN)/python -m pip install --quiet 'atheris>=3,<4'
	@for target in body properties; do $(BIN)/python -m tests.fuzz $$target -runs=$(RUNS) -max_len=20000 -timeout=2; done

docker-test: ## Build the image and try it with Docker Compose (needs an engine and root; about five minutes)
	@scripts/docker-test

run: setup ## Run the worker with the SESSION_WORKER_* settings of the environment
	@exec $(BIN)/session-worker run

lock: setup ## Pin the newest allowed versions of all dependencies
	@$(BIN)/python -m pip install --quiet 'uv>=0.9,<1'
	@$(COMPILE) --extra otel --generate-hashes --output-file requirements.lock pyproject.toml
	@echo 'hatchling>=1.27,<2' | $(COMPILE) --generate-hashes --output-file requirements-build.lock -
	@$(COMPILE) --extra dev --output-file requirements-dev.lock pyproject.toml
	@$(COMPILE) --extra bench --constraint requirements-dev.lock --output-file requirements-bench.lock pyproject.toml

clean: ## Remove the virtual environment and every cache
	@rm -rf $(VENV) $(BENCH_VENV) $(LOWEST_VENV) benchmarks/peers/build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
