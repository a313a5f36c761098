# `make demo` needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# processes that run tests, each on one thread, a file each at a time; which tests: make test TESTS=tests/networks
WORKERS ?= 2
TESTS ?= tests
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# uv trusts the certificates of the system, as pip does: behind a company's proxy its own list fails
export UV_SYSTEM_CERTS := 1

.PHONY: demo test lint docs slow robustness mutation clean

.venv/runtime: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codepose needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable '.[train]'
	touch $@

.venv/dev: .venv/runtime
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable '.[train,dev]'
	touch $@

demo: .venv/runtime  ## train the quick preset on the built-in hammer and report (DEMO="--joint-only" for the short one)
	$(BIN)/codepose demo $(DEMO)

test: .venv/dev  ## the test suite, on the CPU
	$(PYTEST) $(TESTS)

lint: .venv/dev docs  ## formatting, lint and types; the documentation's links and names
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev  ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

slow: .venv/dev  ## trainings that take minutes
	$(PYTEST) -m slow $(TESTS)

robustness: .venv/dev  ## damaged files, odd command lines, kills, full disks: the whole campaign, hours (docs/robustness.md)
	$(BIN)/python -m pytest -m slow tests/robustness --campaign-share 1

mutation: .venv/dev  ## do the tests notice a changed line? (docs/testing.md; MODULE="networks/losses" for one, AGAIN=--again)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable '.[train,dev,mutation]'
	$(BIN)/python tests/mutation.py $(AGAIN) $(MODULE)

clean:
	rm -rf .venv build dist site .mutation
