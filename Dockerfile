# syntax=docker/dockerfile:1
# The worker's image: libraries, then weights, then code, so that what changes most often is in the upper layers.
# docker-bake.hcl has its variants, docs/deploy.md says which to take.

# PyTorch's wheels contain CUDA 13.0, and the driver comes from the host: a CUDA base would contain CUDA a second time.
# `docker buildx imagetools inspect python:3.12-slim-bookworm` shows a newer digest.
ARG BASE=python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3
# the contents beside the code: `complete`, or `encoders` (no weights), or `weights` (no encoders)
ARG MODELS=complete

FROM ${BASE} AS libraries
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /worker
COPY requirements.lock requirements-cuda.lock ./
# Wheels only, so that no compiler is needed, and only those whose hashes are in the lock files. pip compiles their byte
# code here, which spares cold starts that time.
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes \
        -r requirements.lock -r requirements-cuda.lock
ENV TRITON_CACHE_DIR=/opt/triton

# The C module with which Triton launches kernels is compiled here: no other stage has gcc (docs/decisions/0008).
FROM libraries AS launcher
# Versions are not pinned: Debian's mirrors keep only a release's newest, and the base's digest fixes the release.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# These files alone, which import no others: a change to the rest of the worker leaves this stage cached.
COPY handler/__init__.py handler/
COPY handler/precompile/__init__.py handler/precompile/launcher.py handler/precompile/
RUN mkdir -p /opt/triton && python -m handler.precompile.launcher

# The list of the image's libraries with their versions and licences (SBOM, CycloneDX), written by a tool that stays here.
FROM libraries AS sbom
COPY requirements-sbom.lock ./
RUN python -m venv /opt/sbom \
    && /opt/sbom/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes \
        -r requirements-sbom.lock \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /opt/sbom.cdx.json /opt/venv/bin/python

# The builder's code alone: a change to the worker leaves the layers of weights and encoders cached.
FROM libraries AS builder
COPY builder builder

FROM builder AS weights
# Empty means the builder's default: Qwen2.5-7B-Instruct at a pinned commit.
ARG MODEL_NAME
ARG MODEL_REVISION
# Empty means: no more than the commit, and what the builder knows of its files; a build prints the value for the next.
ARG MODEL_SHA256
ARG ALLOW_UNPINNED
# Empty means huggingface.co.
ARG HF_ENDPOINT
# A gated model's token is mounted for this step: it is in no layer and no environment. The hub's library writes logs of
# its own into the home directory, which are removed in the same step, so that no layer has them.
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only weights && rm -rf /root/.cache

FROM weights AS complete
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only encoders && rm -rf /root/.cache

FROM builder AS encoders
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only encoders && rm -rf /root/.cache

FROM ${MODELS} AS worker
WORKDIR /worker
COPY --from=launcher /opt/triton /opt/triton
COPY --from=sbom /opt/sbom.cdx.json /opt/sbom.cdx.json
COPY LICENSE .
COPY packs packs
COPY handler handler
# Byte code, and kernels for each of RunPod's GPUs, so that a cold start compiles neither (docs/decisions/0010).
RUN python -m compileall -q handler && TRITON_STORE_BINARY_ONLY=1 python -m handler.precompile /opt/models/weights
# With these variables a host's NVIDIA runtime gives the container GPU and driver; CUDA base images set them too.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# At DEBUG, its default, the SDK logs what users send.
ENV RUNPOD_LOG_LEVEL=INFO
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="runpod-qwen-worker" \
      org.opencontainers.image.description="Qwen2.5 as a pure inference engine on RunPod serverless" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
# As root, because root owns RunPod's mounts: another user cannot write to a network volume (ai-dock/comfyui#41).
# As PID 1, so that the container, and the SDK's process for heartbeats in it, ends with the interpreter.
CMD ["python", "-u", "-m", "handler"]
