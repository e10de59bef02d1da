# Everything needs python3 (3.11 or newer) and make, nothing else. `make run ARGS="--port 9000"` passes flags.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
ARGS ?=
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help run demo test check format docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make run     install into $(VENV) if needed, and serve on http://127.0.0.1:8000"
	@echo "make demo    the same with a simulated Gemini and traffic to look at: no key, no network"
	@echo "make test    install what tests need, and run them (TESTS=tests/cli for some)"
	@echo "make check   formatting, lint, types, architecture, documents"
	@echo "make format  format the code"
	@echo "make docs    write docs/cli.md and .env.example again from the program"
	@echo "make bench   measure, and write to benchmarks/results/"
	@echo "make clean   remove the environments and what tools left behind"

run: $(STAMPS)/run
	@exec $(BIN)/gemini-proxy serve $(ARGS)

demo: $(STAMPS)/run
	@exec $(BIN)/gemini-proxy demo $(ARGS)

# Fast ones first: most mistakes show within seconds.
test: $(STAMPS)/test .venvs/sdk2/stamp .venvs/node/stamp
ifeq ($(strip $(TESTS)),)
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q -m slow
else
	$(BIN)/python -m pytest -q $(TESTS)
endif

check: $(STAMPS)/check $(STAMPS)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

format: $(STAMPS)/check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMPS)/run
	$(BIN)/python -m gemini_caching_proxy.cli.manual commands > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	$(BIN)/python -m gemini_caching_proxy.cli.manual environment > .env.example.new && mv .env.example.new .env.example

bench: $(STAMPS)/bench
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed. Name one with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: on Debian and Ubuntu install the package python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Installed in place, so only a change of pyproject.toml makes it necessary again.
$(STAMPS)/run: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(STAMPS)/test: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@ $(STAMPS)/run

# Client libraries that cannot live beside those of the tests: google-genai 2.x, and Node's. Both are optional.
.venvs/sdk2/stamp: | $(STAMPS)/venv
	@rm -rf .venvs/sdk2
	$(PYTHON) -m venv .venvs/sdk2
	.venvs/sdk2/bin/python -m pip install --quiet --disable-pip-version-check "google-genai>=2.30,<3" "langchain-google-genai>=4.2"
	@touch $@

.venvs/node/stamp: tests/e2e/clients/package.json
	@mkdir -p .venvs/node && cp $< .venvs/node/
	@if command -v npm >/dev/null; then cd .venvs/node && npm install --silent --no-audit --no-fund --no-package-lock; else echo "No npm here: the tests with @google/genai and mongosh are skipped."; fi
	@touch $@

$(STAMPS)/check: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[check]"
	@touch $@ $(STAMPS)/run

$(STAMPS)/bench: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@touch $@ $(STAMPS)/run
