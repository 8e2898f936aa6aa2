# Gonets: `make run`, `make test`. All that is made lies in .venv, build, and beside the sources of ext/ (*.so).
# PYTHON=/path/to/python3 chooses the interpreter. GONETS_SANITIZE and GONETS_DEBUG: see setup.py.

.PHONY: help run build test check check-lint check-format check-types check-imports bench autobahn fuzz sanitize audit lock clean
.DEFAULT_GOAL := help
export PYTHON

help:
	@echo "make run     build, start gonets under ./data on 127.0.0.1, print addresses, two tokens and what to try"
	@echo "make build   .venv from requirements.lock, and the native modules of ext/; only what changed"
	@echo "make test    build, then all tests; one file: .venv/bin/pytest tests/test_tidy.py"
	@echo "make check   build (warnings of Cython are errors), lint, format, types, imports"
	@echo "make bench   build, then a short set of benchmarks"
	@echo "make autobahn build, then all of Autobahn's cases against the parser, strictly"
	@echo "make fuzz    build, then fuzz every parser, SECONDS_EACH=60; needs clang with its sanitizers"
	@echo "make sanitize  build with the sanitizers for addresses and undefined behaviour, then all tests"
	@echo "make audit   compare requirements.lock with published advisories; needs the internet"
	@echo "make lock    pin anew what pyproject.toml asks for, with hashes"
	@echo "make clean   remove what was made, .venv and caches too; ./data stays"

build:
	@.ci/prepare
	@.venv/bin/python setup.py -q build_ext --inplace

run: export GONETS_SERVER_API ?= 127.0.0.1:8802
run: build
	.venv/bin/gonets serve --demo

test: build
	.venv/bin/python -m pytest

check: check-lint check-format check-types check-imports  # with -k all of them, even if one fails

check-lint: build
	.venv/bin/ruff check
check-format: build
	.venv/bin/ruff format --check
check-types: build
	.venv/bin/mypy
check-imports: build
	.venv/bin/lint-imports

bench: build
	.venv/bin/gonets bench short

autobahn: build
	.venv/bin/python -m tests.support.autobahn

# The tool that pins lives in an environment of its own: it is no part of what it pins.
fuzz: build
	@tests/fuzz/fuzz.sh

sanitize: build
	@tests/sanitize.sh

audit: build
	@.venv/bin/python -m venv build/audit
	@build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements.lock \
		|| { echo "make audit: what was found, or could not be asked, is above"; exit 1; }

lock:
	@.ci/prepare
	.venv/bin/python -m venv --clear build/lock-venv
	build/lock-venv/bin/pip install -q --disable-pip-version-check uv
	build/lock-venv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --custom-compile-command "make lock" -q -o requirements.lock

clean:
	rm -rf .venv build dist *.egg-info ext/*.so ext/*.c
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
