# Everything one can do here; `make` alone lists it. Only Python (3.11 to 3.13) and make are assumed.
# Each target sets up .venv by itself when it is missing or older than its inputs.

.DEFAULT_GOAL := help
.PHONY: help setup demo explore train test test-all cover lint type check bench bench-peers bench-recovery test-interop ui clean

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
ARGS ?=
MARKERS ?= not slow
WORKERS ?= 2
BY_FILE := --dist loadfile --no-loadscope-reorder # fixtures of a file run once; order: tests/conftest.py

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create or update .venv with everything pinned in constraints.txt

demo: $(INSTALLED) ## record, train and evaluate on procedural images: minutes, no download
	$(PY) -m saev.train

explore: $(INSTALLED) ## the demo's dictionary in the browser; others: make explore ARGS="sae=DIR port=0"
	$(PY) -m saev.explore $(ARGS)

train: $(INSTALLED) ## train with overrides: make train ARGS="+experiment=clip_b16"
	$(PY) -m saev.train $(ARGS)

# bytecode is kept, whatever the shell says: each process would compile for ten seconds
test: $(INSTALLED) ## the fast tests, a minute; one of them: make test ARGS="-k manifest"
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
		$(PY) -m pytest -n $(WORKERS) $(BY_FILE) -m "$(MARKERS)" $(ARGS)

test-all: ## every test, the slow ones too
	@$(MAKE) --no-print-directory test MARKERS=

cover: ## branch coverage of the fast tests; of all of them: make cover MARKERS=
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term:skip-covered $(ARGS)"

lint: $(INSTALLED) ## format, lint and import contract, nothing changed
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(VENV)/bin/lint-imports

type: $(INSTALLED) ## static types
	$(PY) -m pyright --pythonpath $(PY)

check: lint type test ## what to run before a commit

bench: $(INSTALLED) ## how fast everything is, against its limits: minutes, best on quiet cores
	$(PY) -m benchmarks.bench $(ARGS)

bench-peers: $(INSTALLED) ## the same steps beside those of other libraries, each set up in outputs/bench/envs
	$(PY) -m benchmarks.speed.peers outputs/bench/envs
	$(PY) -m benchmarks.bench --what step --peers outputs/bench/envs $(ARGS)

bench-recovery: $(INSTALLED) ## do dictionaries find features that are known? minutes
	$(PY) -m benchmarks.recovery $(ARGS)

test-interop: $(INSTALLED) ## every layout against the libraries themselves, each set up in outputs/interop
	$(PY) -m benchmarks.speed.peers outputs/interop/envs
	PYTHONDONTWRITEBYTECODE= SAEV_INTEROP_ENVS=outputs/interop/envs $(PY) -m pytest tests/interop $(ARGS)

ui: $(INSTALLED) ## MLflow UI on 127.0.0.1; another store or port: make ui ARGS="--port 5001"
	$(PY) -m saev.tracking.ui $(ARGS)

clean: ## remove .venv and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

$(INSTALLED): pyproject.toml constraints.txt
	@set -e; \
	if command -v uv >/dev/null 2>&1; then \
		$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
			|| uv venv --clear --python '>=3.11,<3.14' $(VENV); \
		uv pip install --python $(PY) -c constraints.txt -e '.[dev]'; \
	else \
		if ! $(PY) -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
			found=; \
			for python in python3 python3.13 python3.12 python3.11 python; do \
				if $$python -c '$(SUPPORTED)' 2>/dev/null; then found=$$python; break; fi; \
			done; \
			if [ -z "$$found" ]; then \
				echo "no Python 3.11, 3.12 or 3.13 with its venv module found: install one and run make again" >&2; \
				exit 1; \
			fi; \
			$$found -m venv --clear $(VENV); \
		fi; \
		$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi; \
	touch $@
