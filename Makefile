# `make demo` and `make test` need only Python 3.11 and make; everything else is installed in .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Folders of `make test`; `.ci/run` adds chaos and e2e.
TESTS ?= tests/unit tests/property tests/contract tests/scenario tests/integration tests/models tests/architecture

.PHONY: help install dev web demo clean-demo test prove check format bench docs lock

help: ## show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## create .venv; then use .venv/bin/lineside
	@sh infra/install.sh requirements.lock
	@$(MAKE) --no-print-directory web

dev:
	@sh infra/install.sh requirements-dev.lock

web: ## build the pages into console/web/dist
	@sh infra/build-web.sh

demo: install ## everything on this machine with sample data (ONCE=1 ends when done, LAN=1 for a phone)
	@exec $(BIN)/lineside demo $(if $(ONCE),--once) $(if $(LAN),--lan) $(if $(JSON),--json)

clean-demo: ## remove what the demo keeps
	@$(BIN)/lineside demo --clean

test: dev web ## all tests that need no service of their own
	@$(PYTEST) $(TESTS)

prove: dev web ## show that guarantees hold and that their tests can fail (G="G3 G7"; all without; JSON=1)
	@$(BIN)/python -m tests.prove $(if $(JSON),--json) $(G)

check: dev web ## format, lint, types, import contracts, generated files
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/lineside schemas export --check
	@sh infra/build-web.sh check

format: dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

bench: dev web ## the figures that README and docs claim
	@$(BIN)/lineside bench runtime
	@$(BIN)/lineside bench latency
	@$(BIN)/lineside bench anomaly

docs: dev ## write the generated references
	@$(BIN)/lineside schemas export

lock: dev ## resolve the locks anew, with hashes and without addresses
	@$(BIN)/uv pip compile --quiet --upgrade --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --extra all pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --extra dev --constraint requirements.lock pyproject.toml -o requirements-dev.lock
	@mkdir -p infra/requirements
	@for role in web=web,notifier embed=embed,cpu,weights anomaly=anomaly,weights llm=llm record=none; do \
	  extras=$$(echo "$${role#*=}" | sed 's/none//; s/\([^,][^,]*\)/--extra \1/g; s/,/ /g'); \
	  $(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --generate-hashes --python-version 3.11 $$extras --constraint requirements.lock pyproject.toml -o infra/requirements/$${role%%=*}.lock; \
	done
