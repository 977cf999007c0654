# Thin: every target is one line that can be typed by hand.
.DEFAULT_GOAL := help
.PHONY: help setup demo image test unit long kvm kvm-smoke kvm-here lint clean

PYTHON := .venv/bin/python
# Two workers take module after module: a module's tests stay together, since they share guests or what they compile.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

# Of the nested host that kvm-smoke runs in: bookworm (QEMU 7.2) or trixie (QEMU 10.0).
RELEASE ?= bookworm

kvm: image ## the guest tests under KVM, in nested hosts of Debian 12 and 13
	@$(PYTHON) -m tests.kvm -- -m "kvm and not long" --durations=25

kvm-smoke: image ## a pair of guests under KVM, killed and recovered, in a nested host
	@$(PYTHON) -m tests.kvm --release $(RELEASE) -- -v tests/kvm/test_smoke.py

kvm-here: image ## the guest tests under this host's own KVM; send kvm-results/here with what you found
	@$(PYTHON) -m tests.kvm --here -- -m "kvm and not long" --durations=25

lint: setup ## ruff and mypy
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

clean: ## remove the virtualenv and caches; guest images stay (`vpctl image remove`)
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
