# Two commands: `make run` answers test_input.json, `make test` proves the rest. Both set up .venv when it is stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check docs bench bench-gpu soak hostile image image-test lock clean

run: $(VENV)/.runtime
	@$(BIN)/python -m handler $(ARGS)

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

soak: $(VENV)/.dev  ## ten minutes of everything: does the worker grow?
	$(BIN)/python -m bench.soak $(ARGS)

hostile: $(VENV)/.dev  ## eight minutes of honest jobs among hostile ones
	$(BIN)/python -m bench.hostile $(ARGS)

image:  ## the image with weights, or another of docker-bake.hcl: make image ARGS=slim
	COMMIT=$$(git rev-parse HEAD) docker buildx bake $(ARGS)

image-test: $(VENV)/.dev  ## build it without Docker and ask it without a network; needs root, buildah and debootstrap
	$(BIN)/python -m tests.support.image

$(VENV)/.runtime: requirements.lock requirements-cuda.lock
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV), once (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the CUDA libraries)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock -c requirements-cuda.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

lock: $(VENV)/.dev
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-header -o requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-header -o requirements-dev.lock requirements-dev.in

clean:
	rm -rf $(VENV)
