# Every target sets itself up: a virtual environment from requirements.lock, and for the tests with a real
# control plane the Kubernetes binaries, built once from Go modules into ~/.cache/modelfleet.
PYTHON ?= python3
VENV   ?= .venv
GPUS   ?= 8
UV_VERSION := 0.13.9
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SOURCES := core operator sidecar lab client tests tools benchmarks charts

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-kubernetes test test-unit test-property test-integration test-cluster cluster check format generate lock images bench peers soak control-plane clients clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY) ## Create the virtual environment from the lock file
$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) from requirements.lock ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modelfleet needs Python >= 3.11: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

demo: $(READY) ## Watch a fleet being planned, scaled and routed on this machine (no cluster needed)
	@$(BIN)/modelfleet demo

demo-kubernetes: $(READY) ## The same against a real local Kubernetes control plane (Linux, root)
	@$(BIN)/modelfleet demo --kubernetes -o out/demo-kubernetes

WORKERS ?= 2
# A file stays with one worker: the integration tier's fixtures are a control plane for each.
# More threads of the linear algebra than processors only stand in each other's way.
PYTEST  := OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadfile

test: test-unit test-property test-integration ## Run unit, property and integration tests

test-unit: $(READY)
	@$(PYTEST) tests/unit

test-property: $(READY)
	@$(PYTEST) tests/property

test-integration: $(READY) control-plane clients
	@$(PYTEST) tests/integration

test-cluster: $(READY) ## Run the tests of the whole product on a real node (Linux, root)
	@$(BIN)/python -m modelfleet_lab.cluster --install --images \
	  --containerfile tests/support/client_app/Containerfile $(BIN)/pytest tests/cluster

cluster: $(READY) ## Open a shell in a real cluster with the product's images; COMMAND="..." runs that instead
	@$(BIN)/python -m modelfleet_lab.cluster --install --images --gpus $(GPUS) $(if $(COMMAND),sh -c "$$COMMAND")

control-plane: $(READY)
	@$(BIN)/python -m modelfleet_lab.controlplane.binaries control-plane helm

clients: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m support.client_programs

check: $(READY) ## Format, lint, types, import contracts, generated files, chart
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/gen_proto.py --check
	@$(BIN)/python tools/gen_chart.py --check
	@$(BIN)/python tools/gen_metrics.py --check
	@$(BIN)/python tools/gen_dashboard.py --check
	@$(BIN)/python tools/lock_images.py --check
	@helm=$$($(BIN)/python -m modelfleet_lab.controlplane.binaries helm) && $$helm lint --strict --quiet charts/modelfleet

format: $(READY) ## Rewrite the code in the house format
	@$(BIN)/ruff format $(wildcard $(SOURCES))
	@$(BIN)/ruff check --fix $(wildcard $(SOURCES))

generate: $(READY) ## Write what is generated: proto/gen, the chart's copies and tables, docs/metrics.md
	@$(BIN)/python tools/gen_proto.py
	@$(BIN)/python tools/gen_chart.py
	@$(BIN)/python tools/gen_metrics.py
	@$(BIN)/python tools/gen_dashboard.py

lock: $(READY) ## Pin the newest allowed dependencies in requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras --group dev --generate-hashes --universal \
	  --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock
	@$(BIN)/python tools/lock_images.py

comma   := ,
BUILDER ?= $(firstword $(foreach tool,docker podman buildah,$(if $(shell command -v $(tool)),$(tool))))
IMAGES  := operator injector sidecar model-server
TAG     ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

images: ## Build the images: make images [BUILDER=docker|podman|buildah] [BASE=...] [REGISTRY=host/path/] [TAG=...]
	@test -n "$(BUILDER)" || { echo "make images needs docker, podman or buildah: install one, or name it with BUILDER="; exit 1; }
	@for image in $(IMAGES); do \
	  $(BUILDER) build --file images/$$image/Containerfile --tag $(REGISTRY)modelfleet/$$image:$(TAG) \
	    $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(SOURCE),--build-arg SOURCE=$(SOURCE)) \
	    $(if $(PIP_CONF),--secret id=pip$(comma)src=$(PIP_CONF)) . || exit 1; \
	done

bench: $(READY) ## Run the benchmarks; each prints ratios to its own baseline
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

peers: $(READY) ## Measure the sidecar and other gateways side by side (Linux, Go, Node; some 20 minutes)
	@$(BIN)/python -m benchmarks.peers --json out/peers.json

REQUESTS ?= 1000000
soak: $(READY) ## Soak a sidecar in failures and look for leaks (Linux, Go): make soak [REQUESTS=1000000]
	@$(BIN)/python benchmarks/soak.py --requests $(REQUESTS) --json out/soak.json

clean: ## Remove the virtual environment and outputs
	@rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
