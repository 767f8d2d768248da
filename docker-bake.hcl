# The image's variants: `docker buildx bake` builds 7b, `docker buildx bake slim` another one; `--push` pushes it.

variable "REGISTRY" {
  default = "runpod-qwen-worker"
}
variable "VERSION" {
  default = "0.1.0"
}
variable "COMMIT" {
  default = ""
}

group "default" {
  targets = ["7b"]
}

target "_worker" {
  platforms = ["linux/amd64"]
  args = {
    VERSION = VERSION
    COMMIT  = COMMIT
  }
}

# Qwen2.5-7B-Instruct in bf16, and the encoders' tokenizers
target "7b" {
  inherits = ["_worker"]
  tags     = ["${REGISTRY}:${VERSION}-7b"]
  # only a gated or private model needs it
  secret = ["type=env,id=hf_token,env=HF_TOKEN"]
}

# no weights: for RunPod's cached model, a network volume, or ALLOW_DOWNLOAD
target "slim" {
  inherits = ["_worker"]
  tags     = ["${REGISTRY}:${VERSION}-slim"]
  args     = { MODELS = "encoders" }
}

# Qwen2.5-0.5B, the smallest, to try an endpoint
target "test" {
  inherits = ["_worker"]
  tags     = ["${REGISTRY}:${VERSION}-test"]
  args = {
    MODEL_NAME     = "Qwen/Qwen2.5-0.5B-Instruct"
    MODEL_REVISION = "7ae557604adf67be50417f59c2c2f167def9a775"
  }
}
