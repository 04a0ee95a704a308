# Two commands do everything on a machine that has only Python and make: `make demo` and `make test`.
PYTHON ?= python3
# Set by many container images: hundreds of tests would compile the package again, each in processes of its own.
unexport PYTHONDONTWRITEBYTECODE
VENV ?= .venv
BIN := $(VENV)/bin
# One process more than there are CPUs, since tests wait for disks and for other processes; PYTEST_JOBS= runs everything
# in one process.
PYTEST_JOBS ?= -n $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))') --dist worksteal
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PACKAGE := pyproject.toml audit_async/_version.py

.PHONY: demo demo-platform test test-all interop lint format campaign bench bench-compare docs screenshots release-check system-packages clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 18

# An environment that is there already, by whatever tool, is kept and gets pip if it has none.
%/.created:
	@$(PYTHON) -c 'import sys; sys.exit("audit-async needs Python 3.11 or later: make PYTHON=python3.13 ...") if sys.version_info < (3, 11) else None'
	@$*/bin/python -m pip --version >/dev/null 2>&1 || $*/bin/python -m ensurepip >/dev/null 2>&1 || \
		$(PYTHON) -m venv --clear $*
	@touch $@

# What is installed is brought up to date if what it depends on has changed. The demo needs a fifth of what the tests need.
$(VENV)/.demo-installed: $(PACKAGE) | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.demo-platform-installed: $(PACKAGE) | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo-platform]'
	@touch $(VENV)/.demo-installed $@

$(VENV)/.installed: $(PACKAGE) | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[test]'
	@touch $(VENV)/.demo-installed $(VENV)/.demo-platform-installed $@

demo: $(VENV)/.demo-installed  ## the main job: a real service under real requests, stopped, its trail checked
	$(BIN)/python -m examples.demo

demo-platform: $(VENV)/.demo-platform-installed  ## a trail that leaves two hosts: a lost server loses nothing, a tampered host is caught
	$(BIN)/python -m examples.demo_platform

test: lint  ## everything that has to hold before a change lands
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(PYTEST_JOBS) $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/.installed  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## what ruff can correct by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each interpreter that is on this machine, on PATH or from pyenv, in an environment of its own.
test-all: test  ## the tests on each further Python that is on this machine
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
# holds them and no more. If there is none it says so and succeeds; `make test` then skips the same tests.
INTEROP := .venv-interop
interop:  ## the tests with independent implementations, which need Python 3.12
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
		if ! { "$$found" -m venv --clear $(INTEROP) && $(INTEROP)/bin/python $(PIP_INSTALL) \
			--editable '.[tlog,tlog-interop]' 'pytest>=9' 'pytest-asyncio>=1.0' && \
			touch $(INTEROP)/.installed; }; then \
			echo "interop: not run: its packages could not be installed for $$found"; exit 0; \
		fi; \
	fi; \
	echo "interop: $$($(INTEROP)/bin/python --version)"; \
	$(INTEROP)/bin/python -m pytest tests/tlog/test_interop.py

# Each prints its seed and how far it is; CAMPAIGN_SEED, CAMPAIGN_RUNS and CAMPAIGN_MINUTES (for each, 5) change them.
# The properties are those of `make test`, with examples that no run has seen.
campaign: $(VENV)/.installed  ## the long runs, less than an hour: hundreds of kills and faults, thousands of edits
	$(BIN)/python -m pytest -m campaign -o faulthandler_timeout=3600 $(PYTEST_JOBS) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile campaign $(PYTEST_JOBS) $(PYTEST_ARGS)

$(VENV)/.bench-installed: $(VENV)/.installed
	$(BIN)/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench-installed  ## figures next to the machine's own limits and to rivals; not a test
	$(BIN)/python -m bench $(BENCH_ARGS)

# `make bench-compare REF=main BENCH_ARGS="emit throughput --rounds 9"`; the other commit gets an environment of its own.
bench-compare: $(VENV)/.bench-installed  ## benchmarks of this tree and of another commit, by turns: make bench-compare REF=main
	@[ -n "$(REF)" ] || { echo 'bench-compare: name the other commit: make bench-compare REF=main BENCH_ARGS="emit"'; exit 2; }
	$(BIN)/python -m bench.compare $(REF) $(or $(BENCH_ARGS),emit throughput latency)

SHOWN := viewer-records viewer-record viewer-verification viewer-verification-dark viewer-record-phone
screenshots: $(VENV)/.installed  ## the pictures of the viewer in docs/assets, from Debian's Chromium
	$(BIN)/python -m tests.viewer.browser.screenshots docs/assets $(SHOWN)

# In an environment of its own: the generator is no part of what the tests need.
DOCS := .venv-docs
$(DOCS)/.installed: $(PACKAGE) | $(DOCS)/.created
	$(DOCS)/bin/python $(PIP_INSTALL) --editable '.[docs]'
	@touch $@

docs: $(DOCS)/.installed  ## the documentation site, in site/; a broken link or reference is an error
	$(DOCS)/bin/zensical build --clean --strict
	$(DOCS)/bin/python -m site_build.check_site site

# In an environment of its own; each Python of the machine then gets a fresh one. RELEASE_ARGS="--python 3.13" takes one.
RELEASE := .venv-release
$(RELEASE)/.installed: $(PACKAGE) | $(RELEASE)/.created
	$(RELEASE)/bin/python $(PIP_INSTALL) --editable '.[release]'
	@touch $@

release-check: $(RELEASE)/.installed  ## build wheel and sdist, and use both on each Python of this machine
	$(RELEASE)/bin/python -m releasing.check $(RELEASE_ARGS)

# For tests that are skipped without them: a disk that fails on demand, and counting system calls. Debian's prometheus is
# not among them: for promtool, which tests the alert rules in examples/deploy, it would install 330 MB.
SYSTEM_PACKAGES := chromium chromium-driver fuse3 libfuse3-3 redis-server rsyslog rsyslog-openssl strace
system-packages:  ## Debian's packages that a few tests need; as root
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null

clean:  ## remove what these commands have made
	rm -rf .venv .venv-* .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache .bench-compare demo-trail \
		build dist site
