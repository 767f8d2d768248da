"""The settings: the environment, read once into a frozen value. A bad value stops the start and is named."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from handler.errors import StartError


def _comma_separated(value: object) -> object:
    if not isinstance(value, str):
        return value
    return () if value == "off" else tuple(value.split(","))


def _json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise PydanticCustomError("json", "is not a JSON object")
    return read


#: which requests share computed prefixes: all with the same `cache_salt` or none, those with a salt, no two
PrefixSharing = Literal["all", "salted", "off"]
#: 0 takes a free one
Port = Annotated[int, Field(ge=0, le=65_535)]
#: a day at most
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseModel):
    """The operator's settings; each field is the environment variable of the same name in capitals.

    An empty variable counts as unset, since endpoint templates leave variables empty. None leaves the choice to the
    worker, by its device and model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_path: str | None = Field(None, description="Checkpoint directory, or `demo` for the embedded demo model.")
    model_name: str | None = Field(
        None,
        description="Model to serve, by its name on Hugging Face; with `MODEL_PATH`, only the name that replies give. "
        "Unset: the model in the image, or Qwen/Qwen2.5-7B-Instruct from RunPod's cache.",
    )
    model_revision: str | None = Field(
        None,
        description="Commit to serve; with `MODEL_PATH`, only the revision that replies give. "
        "Unset: the commit that is found.",
    )
    allow_download: bool = Field(
        False,
        description="Download `MODEL_NAME` at the start where it is not found; outside RunPod that is always done.",
    )
    verify_weights: Literal["size", "hash"] = Field(
        "size", description="Compare each file with manifest.json by its `size`, or by its SHA-256 as well (`hash`)."
    )
    model_default_system: bool = Field(
        False, description="Add the default system turn of the model's template to conversations that have none."
    )
    max_concurrent_requests: PositiveInt | None = Field(
        None, description="Requests that run on the device at the same time, at most."
    )
    max_model_len: PositiveInt | None = Field(None, description="Prompt and completion tokens of a request, at most.")
    rope_scaling: Annotated[dict[str, JsonValue], BeforeValidator(_json_object)] | None = Field(
        None,
        description="Rotary embedding in place of config.json's, as JSON: "
        '`{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}` extends Qwen2.5 and Qwen3 '
        "to 131,072 tokens.",
    )
    kv_cache_gb: float | None = Field(
        None, gt=0, le=100_000, description="Memory for the KV cache, in GiB (2^30 bytes)."
    )
    prefill_chunk: PositiveInt | None = Field(
        None, description="Prompt tokens that one step computes beside requests that decode, at most."
    )
    attention: Literal["auto", "reference", "kernel"] = Field(
        "auto", description="`kernel` needs CUDA; `reference` runs anywhere; `auto` uses the kernel where it works."
    )
    graph_buckets: Annotated[tuple[PositiveInt, ...], BeforeValidator(_comma_separated)] | None = Field(
        None, description="Batch sizes captured as CUDA graphs, as in `1,2,4`; `off` for none."
    )
    speculative_tokens: NonNegativeInt = Field(
        0, description="Tokens guessed in one step where a request repeats earlier text, at most; 0 turns guessing off."
    )
    shutdown_grace_s: Seconds = Field(
        30.0,
        description="Seconds that running jobs get after SIGTERM; those that need longer fail, and may be retried.",
    )
    step_timeout_s: Seconds = Field(
        120.0,
        description="Seconds that a step may take, or work may wait for a thread; after that the worker counts as hung "
        "and ends.",
    )

    face: Literal["queue", "http"] = Field(
        "queue",
        description="`queue` takes jobs of a queue endpoint; `http` serves HTTP itself, for a load-balancing endpoint "
        "or outside of RunPod.",
    )
    port: Port = Field(80, description="With `FACE=http`: the port of requests; RunPod sets it.")
    port_health: Port | None = Field(
        None, description="With `FACE=http`: a second port for the same paths, where RunPod asks for the health."
    )
    health_check_path: str = Field(
        "/ping", pattern="^/", description="With `FACE=http`: the path where RunPod asks for the health."
    )
    bind_address: str = Field(
        "0.0.0.0", description="With `FACE=http`: the address to listen on; 127.0.0.1 for this machine alone."
    )
    api_key: str | None = Field(
        None,
        description="With `FACE=http`: the key that requests must bring, as `Authorization: Bearer KEY`. Unset: anyone "
        "who reaches the port is answered, and on RunPod its edge checks keys.",
    )

    packs_dir: DirectoryPath | None = Field(
        None, description="Directory of enhancement packs. Unset: the worker's own `packs/`."
    )
    encoders_dir: DirectoryPath | None = Field(
        None,
        description="Directory with the tokenizers of text encoders, in `clip`, `umt5`, `t5`. "
        "Unset: `encoders/` beside the weights, or the image's.",
    )
    enhance_cache_entries: PositiveInt = Field(100, description="Enhancements that the cache holds, at most.")
    enhance_cache_evict: PositiveInt = Field(
        20, description="Enhancements, the oldest ones, that are removed when the cache is full."
    )
    prefix_sharing: PrefixSharing = Field(
        "all",
        description="Which requests share the KV cache of a common prefix: `all` with equal `cache_salt`, sent or not; "
        "`salted`, of these only requests that sent one; `off`, none.",
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables named after the fields.

        Raises:
            StartError: a variable has a value that its field does not allow, or a name that is nearly a setting's.
        """
        for name, value in environ.items():
            if value and (meant := _misspelt(name, [field.upper() for field in cls.model_fields])):
                raise StartError(f"{name} is not a setting; did you mean {meant}? If not, unset it")
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]).upper()
            raise StartError(f"{name}={environ[name]!r}: {first['msg']}") from None


#: variables that were settings once -> what to know where one is still set
REMOVED = {
    "STREAMING": "each job is streamed where its own field `stream` is true, and answered with one object where not",
}


def without_effect(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is set and has no effect any more."""
    return [f"{name} has no effect: {why}; unset it" for name, why in REMOVED.items() if environ.get(name)]


def _misspelt(name: str, known: list[str]) -> str | None:
    """The setting with nearly the same name, if there is one. 0.88 allows one wrong letter in nine."""
    return None if name in known else next(iter(get_close_matches(name.upper(), known, n=1, cutoff=0.88)), None)


#: set for a process that replaces one that lost its device; its value is the error
LOST_DEVICE = "WORKER_LOST_DEVICE"


def lost_device(environ: Mapping[str, str]) -> str | None:
    """The error with which this process lost its device before it started again; None on the first start."""
    return environ.get(LOST_DEVICE)


def on_runpod(environ: Mapping[str, str]) -> bool:
    """True where RunPod started this process: it sets the URL from which jobs are taken."""
    return bool(environ.get("RUNPOD_WEBHOOK_GET_JOB"))
