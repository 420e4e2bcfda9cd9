# `make demo` and `make test` need nothing but Python 3.11+; each target installs what it uses.
SHELL := /bin/bash
MELTANO := .venv/bin/meltano
PYTHON := .venv/bin/python
PIPELINE := tap-oracle-crm target-postgres dbt-postgres:run
SCRIPTS := .ci/run orchestrate/bootstrap.sh orchestrate/airflow/bootstrap.sh
TEMPLATES := $(wildcard api/console/templates/*.html)
LOCKED := uv.lock pyproject.toml $(wildcard */*/pyproject.toml)

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

export SANDBOX_RECORDS ?= 1000

.PHONY: help setup demo test sync serve schedule doctor check probe sandbox token lint bench bench-scale bench-api screenshots soak simulate airflow test-console test-commands test-airflow test-images test-postgres test-pooler test-alerts test-edge test-libreoffice test-oidc attack test-all docs backup restore restore-check adopt erase settings psql stop

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: $(LOCKED)
	orchestrate/bootstrap.sh --no-dev
	@touch $@

.venv/.installed-dev: $(LOCKED)
	orchestrate/bootstrap.sh
	@touch .venv/.installed $@

setup: .venv/.installed ## Install everything and bring the database up to date
	$(PYTHON) -m database migrate
	$(PYTHON) -m declared

demo: .venv/.installed ## Sync a sandbox CRM and serve the result on 127.0.0.1:8000
	$(PYTHON) -m orchestrate.demo

# Debian packages of the tests.
.venv/.debian: .venv/.installed-dev
	command -v faketime && command -v pgbouncer || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq faketime pgbouncer; }
	@touch $@

.venv/.browser: .venv/.installed-dev
	command -v chromium-headless-shell || command -v chromium || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium-headless-shell; }
	@touch $@

# Four workers keep two cores busy, since tests also wait. The output of `lint` comes after theirs.
# Bytecode is always written: otherwise each worker would compile all tests.
test: .venv/.debian ## The tests, and lint beside them
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	make --no-print-directory lint >$$log 2>&1 & \
	PYTHONDONTWRITEBYTECODE= .venv/bin/pytest -n 4 --dist loadgroup --no-loadscope-reorder; \
	tests=$$?; wait $$!; lint=$$?; cat $$log; exit $$((tests || lint))

sync: setup ## Sync once what `.env` names
	$(MELTANO) run $(PIPELINE)

serve: setup ## The API and the console
	$(PYTHON) -m api

schedule: setup ## Run what meltano.yml schedules, when it is due
	$(PYTHON) -m orchestrate.scheduler

doctor: .venv/.installed ## Check all that a sync needs; NOTIFY=1 sends a test message, too
	@$(PYTHON) -m orchestrate.doctor $(if $(NOTIFY),--notify)

check: .venv/.installed ## Compare crm.yml with the CRM; say what the next sync would change
	@$(PYTHON) -m orchestrate.check

probe: .venv/.installed ## Test which requests the CRM refuses, in 30 requests: make probe [SAVE=FILE]
	@$(PYTHON) -m orchestrate.crm $(SAVE)

airflow: .data/airflow/.installed ## Install Airflow in its own environment, .data/airflow

.data/airflow/.installed: .venv/.installed orchestrate/airflow/requirements.txt
	orchestrate/airflow/bootstrap.sh
	@touch $@

test-console: .venv/.browser ## The console in a real browser; minutes
	PYTHONDONTWRITEBYTECODE= .venv/bin/pytest -n 4 --dist loadgroup --no-loadscope-reorder -m 'console and not oidc'

# They start each command anew, so they are slow: `make test` keeps its commands waiting.
test-commands: .venv/.debian ## The commands of operators, images and scheduler; minutes
	PYTHONDONTWRITEBYTECODE= .venv/bin/pytest -n 4 --dist loadgroup --no-loadscope-reorder -m commands

test-airflow: .venv/.installed-dev .data/airflow/.installed ## A real Airflow runs the DAGs; minutes
	.venv/bin/pytest -m airflow tests/test_airflow.py

test-images: .venv/.installed-dev ## The images' steps and services in a chroot; minutes, as root
	command -v debootstrap >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq debootstrap; }
	$(SUDO) .venv/bin/pytest -m chroot --timeout 1200 tests/test_deploy.py

# One worker only: several would use the same database names on the one server.
test-postgres: .venv/.installed-dev ## The tests with a database, on Debian's PostgreSQL: POSTGRES=15
	command -v pg_virtualenv >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq postgresql; }
	pg_virtualenv $(addprefix -v ,$(POSTGRES)) -c --locale=C.UTF-8 bash -c \
	'TEST_POSTGRES=postgresql://$$PGUSER:$$PGPASSWORD@localhost:$$PGPORT \
	env -u PGUSER -u PGPASSWORD -u PGHOST -u PGPORT -u PGDATABASE .venv/bin/pytest -m "not libreoffice" \
	tests/test_pipeline.py tests/test_statuses.py tests/test_upgrade.py tests/test_transform_quality.py \
	tests/test_reconcile.py tests/test_counts.py tests/test_preflight.py tests/test_adopt.py \
	tests/test_database_url.py tests/api load'

test-alerts: .venv/.installed-dev ## The alert rules, by Prometheus's promtool
	command -v promtool >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends prometheus; }
	.venv/bin/pytest tests/test_alerts.py

test-edge: .venv/.installed-dev ## The API behind Debian's Caddy and nginx, with TLS
	command -v caddy >/dev/null && command -v nginx >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq caddy nginx-light; }
	.venv/bin/pytest -m edge tests/test_edge.py

test-libreoffice: .venv/.installed-dev ## LibreOffice opens what the API exports
	command -v soffice >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends libreoffice-calc-nogui; }
	.venv/bin/pytest -m libreoffice tests/api/test_libreoffice.py

# `make test` has these too, where PgBouncer is installed.
test-pooler: .venv/.installed-dev ## What meets a connection pooler, with Debian's PgBouncer
	command -v pgbouncer >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq pgbouncer; }
	.venv/bin/pytest -k pooler tests/test_preflight.py load/target-postgres/tests/test_fence.py

# The kinds of attack that need no load are in `make test` too.
attack: .venv/.browser ## Attacks on a running server: outages, odd input, roles, payloads; minutes
	.venv/bin/pytest -m "attack or not attack" --timeout 300 tests/attack \
	tests/api/test_server.py tests/api/test_limits.py tests/api/test_odd_input.py tests/api/test_roles.py

.data/oidc/.installed: tests/oidc/package.json tests/oidc/package-lock.json tests/oidc/provider.js
	command -v npm >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends npm; }
	mkdir -p .data/oidc && cp $^ .data/oidc/ && npm --prefix .data/oidc ci --ignore-scripts --no-audit --no-fund
	@touch $@

test-oidc: .venv/.browser .data/oidc/.installed ## Sign in at a real identity provider, in a browser
	.venv/bin/pytest -m oidc tests/console/test_company_account.py

test-all: test test-console test-commands test-airflow test-images test-postgres test-pooler test-alerts test-edge test-libreoffice test-oidc attack ## All of these, one after the other

sandbox: .venv/.installed ## A sandbox CRM on 127.0.0.1:8899
	.venv/bin/oracle-crm-sandbox

token: .venv/.installed ## Print an API token: make token ROLE=admin
	@$(PYTHON) -m api.token $(ROLE)

# deno leaves as it is what stands beside a template's statements, so that long lines are looked
# for as well. It takes `{{-` for a minus: write `{%-`, or break the line inside of a tag.
lint: .venv/.installed-dev ## Every linter, formatter and type checker
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy api database declared notifications orchestrate runs tests examples/bid-desk/people.py
	.venv/bin/mypy extract/oracle-crm-sandbox
	.venv/bin/mypy extract/tap-oracle-crm
	.venv/bin/mypy load/target-postgres
	.venv/bin/sqlfluff lint --disable-progress-bar transform database
	.venv/bin/deno fmt --config api/console/deno.json --check
	.venv/bin/deno fmt --config api/console/deno.json --check $(wildcard examples/frontend/*.*s)
	.venv/bin/deno fmt --config api/console/deno.json --ext njk --check $(TEMPLATES)
	@! LC_ALL=C.UTF-8 grep -nE '.{101}' $(TEMPLATES)
	.venv/bin/deno lint --config api/console/deno.json
	.venv/bin/deno lint --config api/console/deno.json $(wildcard examples/frontend/*.js)
	.venv/bin/shellcheck $(SCRIPTS)
	.venv/bin/shfmt --indent 2 --diff $(SCRIPTS)
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

bench: .venv/.installed-dev ## Extract and load beside dlt, a plain script and the limit
	$(PYTHON) -m tests.bench
	$(PYTHON) -m tests.bench.merge
	$(PYTHON) -m tests.bench.at_once
	$(PYTHON) -m tests.bench.fields

bench-scale: .venv/.installed-dev ## All that 1,000,000 deals cost; 10 minutes
	$(PYTHON) -m tests.bench.scale

bench-api: .venv/.installed-dev ## The API beside a plain ORM endpoint; the CPU of each page
	$(PYTHON) -m tests.api.bench
	$(PYTHON) -m tests.bench.pages

screenshots: .venv/.installed-dev ## Regenerate docs/screenshots from the console
	$(PYTHON) -m tests.console.screenshots

simulate: .venv/.installed-dev ## CRMs, clocks, kills and merges by seed: make simulate SEEDS=1-300
	$(PYTHON) -m tests.simulation $(SEEDS)

soak: .venv/.installed-dev ## Syncs, API load and faults at once, for minutes
	$(PYTHON) -m tests.soak

docs: setup ## The lineage as one static page, transform/target/static_index.html
	$(MELTANO) invoke dbt-postgres:docs

# Without the tools of the tests. What pip and uv check when they install is in it as hashes.
SBOM ?= sbom.cdx.json
sbom: .venv/.installed ## A list of all packages with their hashes, CycloneDX: make sbom [SBOM=FILE]
	@$$(command -v uv || echo .data/uv/bin/uv) export --quiet --locked --all-packages --no-default-groups --format cyclonedx1.5 --output-file $(SBOM) >/dev/null
	@echo $(SBOM)

roles: .venv/.installed ## Print the SQL that creates a role for each part; APPLY=1 executes it
	@$(PYTHON) -m database.roles $(if $(APPLY),--apply)

backup: .venv/.installed ## The whole database in one file: make backup [BACKUP=FILE]
	@$(PYTHON) -m database.backup backup $(BACKUP)

restore: .venv/.installed ## Fill the empty database of DATABASE_URL: make restore BACKUP=FILE
	@$(PYTHON) -m database.backup restore $(BACKUP)

restore-check: .venv/.installed ## Test the newest backup, or make restore-check BACKUP=FILE
	@$(PYTHON) -m database.backup check $(BACKUP)

adopt: .venv/.installed ## Take over the tables of the hand-written system before this one
	@$(PYTHON) -m api.adopt

# Not USER, which every shell sets.
erase: .venv/.installed ## Erase a person, rehearsed without APPLY=1: make erase PERSON=ada or OWNER=ID
	@$(PYTHON) -m api.erasure $(if $(PERSON),--user '$(PERSON)') $(if $(OWNER),--owner '$(OWNER)') $(if $(APPLY),--apply)

settings: .venv/.installed ## Write .env.example and docs/settings.md from the settings
	$(PYTHON) -m database settings

psql: setup ## A shell on the database
	$(PYTHON) -m database psql

stop: ## Stop the embedded PostgreSQL
	$(PYTHON) -m database stop
