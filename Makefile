# remerge: `make` lists what there is to do.
# Every target sets up what it needs; programs of .venv come first in PATH.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Without compiled bytecode every stage would compile torch and transformers anew: seconds each.
export PYTHONDONTWRITEBYTECODE :=
# Nothing reports home.
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0

# Processes that run the tests.
WORKERS ?= 2

## Set-up

.PHONY: help setup setup-dev lock

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^## / {printf "\n%s\n", substr($$0, 4)} \
		/^[a-z][a-z-]*:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/run.stamp ## make .venv with what the pipeline runs with, from the lock

setup-dev: .venv/dev.stamp ## add the tools of tests and lint, and every extra, to .venv

.venv/run.stamp: pyproject.toml $(addprefix requirements/,run.txt torch.txt torch-cpu.txt pip.txt)
	@sh requirements/install.sh run
	@echo "compiling kernels for this machine (a minute, once)" >&2
	@python -m remerge.cli compile
	@touch $@

.venv/dev.stamp: .venv/run.stamp requirements/dev.txt
	@sh requirements/install.sh dev
	@touch $@

lock: ## resolve pyproject.toml into requirements/*.txt, with the digests of every wheel
	python3 -m venv .venv/lock
	.venv/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv/lock/bin/python requirements/lock.py

## Pipeline

.PHONY: repro verify push-models pull-models train

repro: setup ## build the models of the recipe, their scores and the report
	dvc repro
	@git diff --quiet dvc.lock && echo "dvc.lock is unchanged: every artefact is the committed one" \
		|| echo "dvc.lock has changed: git diff dvc.lock shows which outputs" >&2
	@echo "open report/index.html"

# Two clones with caches of their own, so that nothing is taken from here.
verify: setup ## rebuild the commit twice in other surroundings and compare every artefact
	python -P -m remerge.cli verify

# Sources (which the recipe can fetch again) and baked donors stay here.
push-models: setup ## send models, formats, scores and report to the remote, without sources
	dvc push ties_p1 ties_p2 gradient quantize_eval collect report

pull-models: setup ## take what push-models sent
	dvc pull ties_p1 ties_p2 gradient quantize_eval collect report

train: setup ## train the embedded family again (the committed weights are what repro uses)
	python -m embedded.train

.PHONY: params formats readme layers docs

params: setup ## compose params.yaml from conf/
	python -P -m remerge.stages.compose

formats: setup ## write options, places and the docs' table from the rows of the formats
	python docs/formats.py

readme: setup ## fill the picture and the tables of README.md from what was built
	python docs/readme.py

layers: setup-dev ## draw the layers of the code into docs/architecture.md
	python docs/layers.py

docs: setup-dev ## build the documentation as a site: build/site/index.html
	python docs/site.py
	mkdocs build --quiet
## Checks

.PHONY: lint format test test-full coverage

lint: setup-dev ## ruff (rules and format) and mypy
	ruff check .
	ruff format --check .
	mypy

format: setup-dev ## let ruff put the code in the form that lint asks for
	ruff check --fix-only .
	ruff format .

test: setup-dev ## the tests that take seconds
	pytest -m "not full" -n $(WORKERS)

test-full: setup-dev ## the tests that build whole pipelines
	pytest -m full -n $(WORKERS)

# Compiled kernels are not traced: what they compute is compared with slow code instead.
coverage: setup-dev ## the tests that take seconds, and which lines of src/ they run
	COVERAGE_FILE=build/.coverage pytest -m "not full" -n $(WORKERS) --cov=remerge --cov-report=term:skip-covered --cov-report=html:build/coverage

.PHONY: fuzz nightly

# Another number in each run, unless SEED=N repeats one.
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')

fuzz: setup-dev ## a million random inputs for each reader of untrusted bytes; RUNS=N, SEED=N
	PYTHONPATH=src python -m fuzz --runs $(or $(RUNS),1000000) --seed $(SEED)

nightly: setup-dev ## random searches that make test does not do; the seed is printed, SEED=N repeats it
	@echo "seed $(SEED): repeat with make nightly SEED=$(SEED)"
	pytest -m "not full" -n $(WORKERS) --hypothesis-profile=random --hypothesis-seed=$(SEED) \
		$$(grep -rl --include='test_*.py' '^@given' tests)
	PYTHONPATH=src python -m fuzz --runs 1000000 --seconds 300 --seed $(SEED)

## Housekeeping

.PHONY: clean distclean

clean: ## remove outputs, scratch and tool caches; keep .venv and the DVC cache
	rm -rf models adapters baked merged quantized scores collected report scratch
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the DVC cache as well
	rm -rf .venv .dvc/cache .dvc/tmp
