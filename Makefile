# `make demo` and `make test` are all that a fresh clone needs: each makes .venv itself.

PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3.10 python3; do \
	if $$name -c 'import venv, ensurepip' >/dev/null 2>&1; then echo $$name; break; fi; done)
PIP := .venv/bin/python -m pip --quiet --quiet --disable-pip-version-check install --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt

MEMBERS ?= 100000
RUNS ?= 3

# What `make torture` plays, and where its records are added; SECONDS ends it early, SEED repeats it.
HISTORIES ?= 2000
POSTGRES ?= 200
KILLS ?= 50
SECONDS ?= 1000000
SEED ?=
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
RESULTS ?= torture.jsonl

.PHONY: demo test lint bench torture clean

demo: .venv/demo
	.venv/bin/dbt-segments demo

test: .venv/test
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/test
	.venv/bin/python -m benchmarks --members $(MEMBERS) --runs $(RUNS)

torture: .venv/test
	.venv/bin/python -m tests.torture play --histories $(HISTORIES) --postgres $(POSTGRES) --kills $(KILLS) \
		--seconds $(SECONDS) --workers $(WORKERS) --results $(RESULTS) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .venv

.venv/python:
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 with venv is needed; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/python $(SOURCES)
	$(PIP) --editable .
	@touch $@

.venv/test: .venv/python $(SOURCES)
	$(PIP) --editable '.[dev,postgres]'
	@touch $@ .venv/demo
