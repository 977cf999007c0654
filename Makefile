# Thin: every target is one line that can be typed by hand.
.DEFAULT_GOAL := help
.PHONY: help setup demo image test unit long lint clean

PYTHON := .venv/bin/python
# Two workers take module after module: a module's tests stay together, since they share guests or what they compile.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (apt, virtualenv); a second run is quick
	@tools/setup

demo: setup ## boot two guests, link and measure them, kill one under traffic, recover it, stop
	@examples/demo

image: setup ## build the guest image, unless it is there
	@.venv/bin/vpctl image build

test: image ## all tests, real guests included (not those marked `long`)
	@$(PYTHON) -m pytest -m "not long" $(WORKERS) --durations=25

unit: setup ## the tests that boot no guest
	@$(PYTHON) -m pytest -m "not long and not vm" $(WORKERS)

long: image ## the tests that take minutes each
	@$(PYTHON) -m pytest -m long --durations=0

lint: setup ## ruff and mypy
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

clean: ## remove the virtualenv and caches; guest images stay (`vpctl image remove`)
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
