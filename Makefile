# Everything runs in .venv, which `scripts/setup` makes on first use; nothing to activate.
.DEFAULT_GOAL := help
SHELL := /bin/sh
py := .venv/bin/python

.PHONY: help setup quickstart test test-all exactness bench bench-compare docs lint format lock audit

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: ## the environment alone: .venv with the locked requirements
	@scripts/setup

quickstart: setup ## set up, then tune a small pretrained network on 20 digits a class, anchored by distillation
	@$(py) -m sft_lightning fit --config experiments/digits/distill.yaml

commands := tests/survival tests/cli tests/cluster tests/runs
studies := tests/fuzz tests/ablation tests/report tests/autoconfig tests/export tests/serve tests/security tests/compat tests/config \
	tests/stats tests/gate tests/after tests/evaluation
others := $(patsubst %,--ignore=%,$(commands) $(studies))
quick := -q -m "not slow"
all := -q --timeout=2400

test: setup ## set up, then the tests, in three parts side by side: some of each wait for processes
	@$(py) -m compileall -q sft_lightning
	@$(py) -m tests.side_by_side $(quick) $(others) -- $(quick) $(commands) -- $(quick) $(studies)

test-all: setup ## every test, the slow ones with real weights too, in two parts side by side
	@$(py) -m tests.side_by_side $(all) --ignore=tests/exactness -- $(all) tests/exactness

exactness: setup ## every test, the same checks on peers, then docs/exactness.md from what they measured
	@rm -f benchmarks/results/exactness.json
	@SFT_EXACTNESS_RESULTS=$(CURDIR)/benchmarks/results/exactness.json $(py) -m pytest -q
	@$(py) -m benchmarks.peers.invariance --out benchmarks/results/peers.json
	@$(py) -m benchmarks.exactness

bench: setup ## speed beside peers, into docs/performance.md; NAME="mlp lenet" for some, ARGS=--quick for a look
	@$(py) -m benchmarks.run $(NAME) $(ARGS)

bench-compare: setup ## what became slower since BASE, a commit or a folder of results
	@test -n "$(BASE)" || { echo "bench-compare: give BASE=COMMIT, or a folder of results" >&2; exit 2; }
	@$(py) -m benchmarks.bench.compare $(BASE)

docs: setup ## docs/results.md and docs/exactness.md from the results under benchmarks/results
	@$(py) -m benchmarks.studies
	@$(py) -m benchmarks.exactness

lint: setup ## ruff, ruff format and mypy
	@$(py) -m ruff check .
	@$(py) -m ruff format --check .
	@$(py) -m mypy

format: setup ## apply ruff's fixes and format
	@$(py) -m ruff check --fix-only -q . ; $(py) -m ruff format .

lock: setup ## write requirements-lock.txt anew from pyproject.toml
	@uv=$$(command -v uv || echo .venv/bin/uv); $$uv pip compile pyproject.toml --all-extras --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet --upgrade --output-file requirements-lock.txt

audit: setup ## look up known vulnerabilities of the locked requirements; needs the network
	@uv=$$(command -v uv || echo .venv/bin/uv); $$uv tool run pip-audit@2.10.1 --requirement requirements-lock.txt \
	  --require-hashes --disable-pip --strict --progress-spinner off
