# syntax=docker/dockerfile:1
# The worker's image: libraries, then weights, then code, so that what changes most often lies on top.
# docker-bake.hcl has its variants, docs/deploy.md says which to take.

# PyTorch's wheels bring CUDA 13.0 themselves, and the driver comes from the host: a CUDA base would hold all that a
# second time. `docker buildx imagetools inspect python:3.12-slim-bookworm` tells a newer digest.
ARG BASE=python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3
# what lies in the image beside the code: `complete`, or `encoders` (no weights), or `weights` (no encoders)
ARG MODELS=complete

FROM ${BASE} AS libraries
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /worker
COPY requirements.lock requirements-cuda.lock ./
# Wheels alone, so no compiler; their byte code is made here, as a cold start has no time for it.
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        -r requirements.lock -c requirements-cuda.lock
ENV TRITON_CACHE_DIR=/opt/triton

# What Triton needs a compiler for, done here: no other stage has one (docs/decisions/0008).
FROM libraries AS launcher
# The base's digest names the Debian release, and its mirrors keep no version but the newest.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY builder/__init__.py builder/launcher.py builder/
RUN mkdir -p /opt/triton && python -m handler.precompile.launcher

# The builder's code alone: no change to the worker's moves the layers of weights and encoders.
FROM libraries AS builder
COPY builder builder

FROM builder AS weights
# Empty stands for the builder's own choice: Qwen2.5-7B-Instruct at a pinned commit.
ARG MODEL_NAME
ARG MODEL_REVISION
ARG ALLOW_UNPINNED
# empty for Hugging Face itself
ARG HF_ENDPOINT
# A gated model's token is mounted for this step: it is in no layer and no environment.
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only weights

FROM weights AS complete
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only encoders

FROM builder AS encoders
ARG HF_ENDPOINT
RUN --mount=type=secret,id=hf_token python -m builder /opt/models --only encoders

FROM ${MODELS} AS worker
WORKDIR /worker
COPY --from=launcher /opt/triton /opt/triton
COPY LICENSE .
COPY packs packs
COPY handler handler
# Kernels for every GPU that RunPod has, too: a cold start has no time to compile (docs/decisions/0010).
RUN python -m compileall -q handler && TRITON_STORE_BINARY_ONLY=1 python -m handler.precompile /opt/models/weights
# By these the NVIDIA runtime of a GPU host hands in GPU and driver; CUDA bases set them too.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Below INFO the SDK would log what users send.
ENV RUNPOD_LOG_LEVEL=INFO
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="runpod-qwen-worker" \
      org.opencontainers.image.description="Qwen2.5 as a pure inference engine on RunPod serverless" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
# As root, who owns what RunPod mounts: another user cannot write to a network volume (ai-dock/comfyui#41).
# As PID 1: the container ends with the interpreter, and with it the SDK's heartbeats.
CMD ["python", "-u", "-m", "handler"]
