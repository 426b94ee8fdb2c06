# Needs python3 (3.11 or newer, with venv) and make. Everything else it installs into .venv,
# and the database into .local. `make help` lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# Tests side by side: more than there are cores, since many of them wait. Each has a database of its own.
WORKERS ?= 4
# Installed requirements are remembered by their content, so that a changed lock installs and an
# unchanged one costs nothing.
STAMP := .venv/.installed-$(shell cksum requirements/dev.txt | cut -d' ' -f1)

.PHONY: help demo run test soak check format bench install lock stop

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  ARGS=… is passed on: make demo ARGS=--exit, make test ARGS="-x tests/engine"'

demo: install ## Send a broadcast to 1,000 contacts before your eyes, then keep serving
	@$(BIN)/python manage.py demo $(ARGS)

run: install ## Web server and clusters for development
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py run $(ARGS)

test: install ## The whole test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

soak: install ## Ten minutes of everything that goes wrong, all at once; ARGS="--seconds 60" for less
	@$(BIN)/python -m benchmarks.soak $(ARGS)

check: install ## Format, lint, types, import arrows, missing migrations, system checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check

format: install ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## The benchmarks (benchmarks/README.md)
	@$(BIN)/python -m benchmarks $(ARGS)

install: $(STAMP) ## Set up .venv only
	@:

$(STAMP): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Turnout needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 …" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }; \
	  echo 'Making .venv …'; $(PYTHON) -m venv --clear .venv; }
	@echo 'Installing the locked requirements into .venv …'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@rm -f .venv/.installed-* && touch $@

lock: install ## Compile requirements/*.in into pinned, hashed *.txt
	@command -v $(BIN)/uv >/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@cd requirements && for name in base dev; do \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $(ARGS) $$name.in -o $$name.txt; done

stop: ## Stop the embedded database, whoever uses it
	@$(BIN)/python -m config.localpg stop
