"""info: facts about the worker and its state."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from handler.api.fields import LIST, CacheSalt, Sent
from handler.api.reply import Reply
from handler.engine.protocol import EndSource
from handler.engine.values import Value
from handler.errors import InvalidRequest

Section = Literal["worker", "model", "health", "memory", "enhancement", "startup"]
SECTIONS: tuple[Section, ...] = get_args(Section)
#: the name that earlier versions of this worker gave themselves, and callers look for
ARCHITECTURE: Literal["pure_inference_engine"] = "pure_inference_engine"


def _each_once(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    if len(set(sections)) < len(sections):
        raise PydanticCustomError("twice", "has a section twice; name each once")
    return sections


Sections = Annotated[
    tuple[Section, ...],
    Field(min_length=1, max_length=len(SECTIONS), fail_fast=True, json_schema_extra={"uniqueItems": True}),
    LIST,
    AfterValidator(_each_once),
]


class InfoRequest(Sent):
    """Facts about the worker; waits for no other job."""

    operation: Literal["info"]
    sections: Sections | None = Field(
        None, description="The sections to return; all of them where this is not sent.", examples=[["worker", "model"]]
    )
    clear_cache: bool = Field(
        False,
        description="Remove the cached enhancements of requests with the same `cache_salt`, or of those without one. "
        "The reply then has only that and the sections asked for.",
    )
    cache_salt: CacheSalt | None = Field(
        None,
        description="With `clear_cache`: the salt of the requests whose enhancements are removed.",
        examples=["8c1f4a"],
    )

    @model_validator(mode="after")
    def _salt_is_of_what_is_cleared(self) -> Self:
        if self.cache_salt is not None and not self.clear_cache:
            raise InvalidRequest("cache_salt needs clear_cache: true", field="cache_salt")
        return self


class Capabilities(Value):
    """The worker's abilities, and its promises about a caller's prompt."""

    chat: bool
    enhancement: bool
    generation: bool
    streaming: bool
    thinking: bool
    logprobs: bool
    hardcoded_prompts: bool = Field(description="False: no prompt text lies in the code.")
    prompt_modification: bool = Field(description="True where the operator has anything added to what callers send.")
    pure_inference: bool


class WorkerFacts(Value):
    """The worker and its counters since the start."""

    worker_type: Literal["pure_inference_engine"]
    model: str
    capabilities: Capabilities
    endpoints: tuple[str, ...] = Field(description="Operations that it serves.")
    version: str
    engine: dict[str, JsonValue] = Field(description="The size of the engine, as it was planned at the start.")
    python: str
    libraries: dict[str, str] = Field(description="Versions.")
    jobs: dict[str, int] = Field(description="Jobs by outcome.")
    tokens: dict[str, int] = Field(description="Tokens by kind: prompt, completion.")


class EndTokenFacts(Value):
    """A token that ends an answer."""

    token_id: int
    token: str = Field(description="As the tokenizer's files write it.")
    sources: tuple[EndSource, ...] = Field(
        description="The files of the checkpoint that say so. With `chat_template` alone it ends answers to messages, "
        "not to a raw prompt."
    )


class ModelSection(Value):
    """The model that is loaded."""

    model_loaded: bool
    model_name: str
    revision: str | None
    source: str = Field(description="Where the weights came from.")
    architecture: str
    forward: Literal["merged", "modules"] = Field(description="Our own forward, or transformers' modules.")
    is_eval_mode: bool
    dtype: str
    model_device: str
    device_type: Literal["cpu", "cuda"]
    gpu_name: str | None
    torch_version: str
    cuda_available: bool
    cuda_version: str | None
    model_parameters: int
    model_size_gb: float = Field(description="Of the weights in memory, in units of 10^9 bytes.")
    vocab_size: int
    context_length: int = Field(description="Positions that the model was made for.")
    max_model_len: int = Field(description="Prompt and completion tokens of one request, at most.")
    stop_token_ids: tuple[int, ...] = Field(description="The `end_tokens` of the configurations: they end any answer.")
    end_tokens: tuple[EndTokenFacts, ...] = Field(description="Every token that ends an answer.")
    thinking: Literal["never", "choice", "always"] = Field(
        description="Whether answers to messages begin with a thought; `choice`: with `enable_thinking: true`."
    )
    sampling_defaults: dict[str, float | int] = Field(description="Of the model's own generation_config.")


class PromptFeatures(Value):
    """Promises about a caller's prompts; false where the operator's settings add to them."""

    pure_inference_engine: bool
    no_prompt_overrides: bool
    respects_provided_prompts: bool


class HealthSection(Value):
    """The state of the worker at this moment."""

    status: Literal["healthy", "loading", "draining", "broken"]
    architecture: Literal["pure_inference_engine"]
    worker_type: Literal["pure_inference_engine"]
    model_loaded: bool
    system_prompt_features: PromptFeatures
    uptime: float = Field(description="Seconds since the process started.")
    active_jobs: int = Field(description="Requests in the engine, running and waiting.")
    waiting: int = Field(description="Requests in the engine that wait for a place in the batch.")
    memory_usage: float = Field(description="GB that the worker holds: on the GPU, or of the host without one.")
    gpu_utilization: int | None = Field(description="Percent; null without a GPU.")
    heartbeat_age_s: float = Field(description="Seconds since the engine's thread last showed life.")
    engine: dict[str, JsonValue] = Field(description="The engine's own counters.")


class MemorySection(Value):
    """Memory in GB (10^9 bytes); figures of a GPU are null without one."""

    model_loaded: bool
    model_device: str
    device_type: Literal["cpu", "cuda"]
    total_vram: float | None
    allocated_vram: float | None
    reserved_vram: float | None
    available_vram: float | None
    host_used: float | None = Field(description="Resident memory of the process; null where the system tells none.")
    host_peak: float = Field(description="The most that it has been.")
    host_available: float | None


class EntrySection(Value):
    """An entry of a pack."""

    encoder: str = Field(description="The text encoder that its results are measured for.")
    max_tokens: int = Field(description="The budget of a result, in content tokens.")
    quality: str | None = Field(description="Null where it serves both.")


class PackSection(Value):
    """A pack that is loaded."""

    id: str
    version: str
    sha256: str
    entries: dict[str, EntrySection]
    targets: dict[str, dict[str, str]] = Field(description="The entry for each target_model and quality.")


class CacheSection(Value):
    """The use of the enhancement cache."""

    limit: int
    hits: int
    misses: int
    hit_rate: float | None = Field(description="Null before the first look.")


class EnhancementSection(Value):
    """The packs, encoders and cache of enhance."""

    enhancement_system: Literal["packs"]
    supported_job_types: tuple[str, ...]
    model_status: Literal["loaded"]
    endpoints: tuple[str, ...] = Field(description="Operations that enhance prompts.")
    packs: tuple[PackSection, ...]
    encoders: dict[str, str] = Field(description="The tokenizer that counts for each text encoder.")
    cache_size: int = Field(description="Enhancements in the cache.")
    cache: CacheSection


class InfoReply(Reply):
    """The sections that were asked for."""

    worker: WorkerFacts | None = None
    model: ModelSection | None = None
    health: HealthSection | None = None
    memory: MemorySection | None = None
    enhancement: EnhancementSection | None = None
    startup: dict[str, JsonValue] | None = Field(None, description="The ledger of the start, in seconds.")
    cache_cleared: int | None = Field(None, description="With `clear_cache`: entries that were removed.")
    cache_size: int | None = Field(
        None, description="With `clear_cache`: entries that are left; with `cache_salt`, those of this salt."
    )
