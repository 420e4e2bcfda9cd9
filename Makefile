# `make demo` and `make test` need nothing but Python 3.11+; each target installs what it uses.
SHELL := /bin/bash
MELTANO := .venv/bin/meltano
PYTHON := .venv/bin/python
PIPELINE := tap-oracle-crm target-postgres dbt-postgres:run
LOCKED := uv.lock pyproject.toml extract/tap-oracle-crm/pyproject.toml

export SANDBOX_RECORDS ?= 1000

.PHONY: help setup demo test sync serve schedule doctor sandbox token lint bench docs psql stop

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: $(LOCKED)
	orchestrate/bootstrap.sh --no-dev
	@touch $@

.venv/.installed-dev: $(LOCKED)
	orchestrate/bootstrap.sh
	@touch .venv/.installed $@

setup: .venv/.installed ## Install everything and bring the database up to date
	$(PYTHON) -m orchestrate.migrate

demo: .venv/.installed ## Sync a sandbox CRM and serve the result on 127.0.0.1:8000
	$(PYTHON) -m orchestrate.demo

test: .venv/.installed-dev lint ## Every test
	.venv/bin/pytest

sync: setup ## Sync once what `.env` names
	$(MELTANO) run $(PIPELINE)

serve: setup ## The API and the console
	$(PYTHON) -m api

schedule: setup ## Run what meltano.yml schedules, when it is due
	$(PYTHON) -m orchestrate.scheduler

doctor: .venv/.installed ## Check settings, database, CRM, schedule; say what to do
	@$(PYTHON) -m orchestrate.doctor

sandbox: .venv/.installed ## A stand-in CRM on 127.0.0.1:8899
	$(PYTHON) -m tests.sandbox

token: .venv/.installed ## Print an API token: make token ROLE=admin
	@$(PYTHON) -m api.token $(ROLE)

lint: .venv/.installed-dev ## ruff, mypy, sqlfluff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy api orchestrate tests
	.venv/bin/mypy extract/tap-oracle-crm
	.venv/bin/sqlfluff lint --disable-progress-bar transform

bench: .venv/.installed-dev ## Extract and load beside dlt, a plain script and the limit
	$(PYTHON) -m tests.bench

docs: setup ## The lineage as one static page, transform/target/static_index.html
	$(MELTANO) invoke dbt-postgres:docs

psql: setup ## A shell on the database
	$(PYTHON) -m orchestrate.postgres psql

stop: ## Stop the embedded PostgreSQL
	$(PYTHON) -m orchestrate.postgres stop
