"""The environment, read once into a frozen value. A bad value stops the start and names itself."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from handler.errors import StartError


def _comma_separated(value: object) -> object:
    if not isinstance(value, str):
        return value
    return () if value == "off" else tuple(value.split(","))


#: a day at most
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseModel):
    """What an operator may set; each field is the environment variable of the same name in capitals.

    An empty variable counts as unset, as endpoint templates leave them. `None` means: what suits the device and model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_path: str | None = Field(None, description="Checkpoint directory, or `demo` for the embedded demo model.")
    model_name: str | None = Field(
        None,
        description="Model to serve, as Hugging Face names it; with `MODEL_PATH` only its public name in replies. "
        "Else what the image holds, or Qwen/Qwen2.5-7B-Instruct from RunPod's cache.",
    )
    model_revision: str | None = Field(
        None, description="Commit to serve; with `MODEL_PATH` only told in replies. Else the one that is there."
    )
    allow_download: bool = Field(
        False, description="Download `MODEL_NAME` at the start where it is not there. Locally that needs no leave."
    )
    verify_weights: Literal["size", "hash"] = Field(
        "size", description="What of each file is held against manifest.json: its size, or also its contents."
    )
    model_default_system: bool = Field(
        False, description="Give conversations without a system turn the one that the model's template has of its own."
    )
    streaming: bool = Field(False, description="Serve the streaming face (`/stream`) instead of the JSON face.")
    max_concurrent_requests: PositiveInt | None = Field(None, description="Requests that share the device at a time.")
    max_model_len: PositiveInt | None = Field(None, description="Prompt and completion tokens of a request, at most.")
    kv_cache_gb: float | None = Field(
        None, gt=0, le=100_000, description="Memory for keys and values, in GiB (2^30 bytes)."
    )
    prefill_chunk: PositiveInt | None = Field(None, description="Prompt tokens computed beside decoding in one step.")
    attention: Literal["auto", "reference", "kernel"] = Field(
        "auto", description="`kernel` needs CUDA; `reference` runs anywhere; `auto` takes the kernel where it works."
    )
    graph_buckets: Annotated[tuple[PositiveInt, ...], BeforeValidator(_comma_separated)] | None = Field(
        None, description="Batch sizes captured as CUDA graphs, as `1,2,4`; `off` for none."
    )
    speculative_tokens: NonNegativeInt = Field(
        0, description="Tokens guessed ahead where a request repeats what it said before, at most; 0 for none."
    )
    shutdown_grace_s: Seconds = Field(
        30.0, description="Seconds that running jobs get after SIGTERM; what is left then is answered with an error."
    )
    step_timeout_s: Seconds = Field(
        120.0, description="Seconds without a sign of life after which the engine counts as hung and the worker ends."
    )

    packs_dir: DirectoryPath | None = Field(
        None, description="Directory of enhancement packs; else the worker's own `packs/`."
    )
    encoders_dir: DirectoryPath | None = Field(
        None,
        description="Tokenizers of text encoders, in `clip`, `umt5`, `t5`; else `encoders/` beside the weights, "
        "else the image's.",
    )
    enhance_cache_entries: PositiveInt = Field(
        100, description="Enhancements kept for the next equal request, at most."
    )
    enhance_cache_evict: PositiveInt = Field(20, description="How many of the oldest leave when one comes too many.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables named after the fields.

        Raises:
            StartError: a variable holds what its field does not allow, or is nearly called as one of ours.
        """
        for name, value in environ.items():
            if value and (meant := _misspelt(name, [field.upper() for field in cls.model_fields])):
                raise StartError(f"{name} is no setting; did you mean {meant}? (else unset it)")
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]).upper()
            raise StartError(f"{name}={environ[name]!r}: {first['msg']}") from None


def _misspelt(name: str, known: list[str]) -> str | None:
    """The setting that a variable was most likely meant to be. 0.88: one letter in nine is wrong."""
    return None if name in known else next(iter(get_close_matches(name.upper(), known, n=1, cutoff=0.88)), None)


def on_runpod(environ: Mapping[str, str]) -> bool:
    """True where the platform started this process: it names the URL to take jobs from."""
    return bool(environ.get("RUNPOD_WEBHOOK_GET_JOB"))
