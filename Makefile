# Two commands do everything on a machine that has only Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process a CPU; PYTEST_JOBS= runs everything in one.
PYTEST_JOBS ?= -n auto --dist worksteal

.PHONY: demo test test-all interop lint format campaign bench clean

# The environment is rebuilt when what it installs has changed.
$(VENV)/.installed: pyproject.toml audit_async/_version.py
	$(PYTHON) -c 'import sys; sys.exit("audit-async needs Python 3.11 or later; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## the main job: a real service under real requests, stopped, its trail checked
	$(BIN)/python -m examples.demo

test: lint  ## everything that has to hold before a change lands
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(PYTEST_JOBS) $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each interpreter that is on this machine, on PATH or from pyenv, in an environment of its own.
test-all: test
	@for version in 3.12 3.13 3.14; do \
		found=; \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			if "$$python" -c '' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then echo "== Python $$version is not on this machine"; continue; fi; \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$found pytest-only || exit 1; \
	done

.PHONY: pytest-only
pytest-only: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_JOBS) $(PYTEST_ARGS)

# Code of others that verifies what is published here, and a real witness, need Python 3.12: an environment of its own
# holds them and no more. It says so and is content where that can't be had; `make test` then skips the same tests.
INTEROP := .venv-interop
interop:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
		echo "interop: $(PYTHON) is 3.12 or later, so these tests are among those of make test"; exit 0; \
	fi; \
	found=; \
	for python in python3.12 python3.13 python3.14 $$HOME/.pyenv/versions/3.1[2-9].*/bin/python; do \
		if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then echo "interop: not run: no Python 3.12 or later on this machine"; exit 0; fi; \
	if [ ! $(INTEROP)/.installed -nt pyproject.toml ]; then \
		if ! { "$$found" -m venv --clear $(INTEROP) && $(INTEROP)/bin/python -m pip install --quiet \
			--disable-pip-version-check --editable '.[tlog,tlog-interop]' 'pytest>=8.3' 'pytest-asyncio>=1.0' && \
			touch $(INTEROP)/.installed; }; then \
			echo "interop: not run: its packages could not be installed for $$found"; exit 0; \
		fi; \
	fi; \
	echo "interop: $$($(INTEROP)/bin/python --version)"; \
	$(INTEROP)/bin/python -m pytest tests/tlog/test_interop.py

campaign: $(VENV)/.installed  ## the long runs: hundreds of kills
	$(BIN)/python -m pytest -m campaign $(PYTEST_ARGS)

$(VENV)/.bench-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench-installed  ## figures beside the machine's own limits and beside rivals; not a test
	$(BIN)/python -m bench $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-* .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-trail build dist
