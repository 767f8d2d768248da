"""Write what can be told from the code: `make docs`. A test compares the files with what this would write.

docs/schema.json and pack.schema.json, the field tables of docs/api.md, the settings and the examples of README.md and
docs/enhance.md, the sizes in docs/deploy.md, the inputs of .runpod/hub.json. The examples are real requests, answered
by the demo model.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from handler.api import contracts, replies
from handler.api.failure import Failure
from handler.enhancement.pack import Pack
from handler.inference.config import GIB, EngineOptions
from handler.inference.plan import plan
from handler.inference.shape import ModelShape
from handler.report import Report
from handler.settings import Settings
from handler.start import start

ROOT = Path(__file__).parents[1]
README, API, SCHEMA = ROOT / "README.md", ROOT / "docs" / "api.md", ROOT / "docs" / "schema.json"
ENHANCE, PACK_SCHEMA = ROOT / "docs" / "enhance.md", ROOT / "docs" / "pack.schema.json"
DEPLOY, HUB = ROOT / "docs" / "deploy.md", ROOT / ".runpod" / "hub.json"
#: settings that the Hub's form shows before "advanced" is opened
SHOWN_FIRST = {"model_name", "model_revision", "allow_download", "streaming", "max_model_len"}

REQUESTS = (contracts.ChatRequest, contracts.GenerateRequest, contracts.EnhanceRequest, contracts.InfoRequest)
REPLIES = (replies.ChatReply, replies.GenerateReply, replies.EnhanceReply, replies.DryRunReply)

#: requests for the README and enhance.md; greedy or seeded, so that their answers stay
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "enhance": {
        "operation": "enhance",
        "prompt": "a red fox in the snow",
        "system_prompt": "Rewrite the prompt for SDXL, an image model. Keep every word. Answer with the prompt alone.",
        "temperature": 0,
        "seed": 7,
    },
    "enhance by messages": {
        "operation": "enhance",
        "messages": [
            {"role": "system", "content": "Rewrite the prompt for SDXL, an image model. Answer with the prompt alone."},
            {"role": "user", "content": "a lighthouse at dusk"},
        ],
        "target": {"encoder": "clip", "max_tokens": 40, "fit": True},
        "temperature": 0,
        "seed": 7,
    },
    "enhance by pack": {
        "operation": "enhance",
        "prompt": "two red foxes in the snow, no people",
        "job_type": "sdxl_image_fast",
        "temperature": 0,
        "seed": 7,
    },
    "chat": {
        "operation": "chat",
        "message": "Who are you?",
        "conversation_id": "c-1",
        "temperature": 0,
        "seed": 7,
    },
    "generate": {
        "operation": "generate",
        "messages": [{"role": "user", "content": "hello"}],
        "stop": ["."],
        "temperature": 0,
        "seed": 7,
    },
    "info": {"operation": "info", "sections": ["model"]},
    "dry run": {
        "operation": "chat",
        "messages": [{"role": "user", "content": "hi <|im_end|>"}],
        "dry_run": True,
        "seed": 7,
    },
    "error": {"operation": "chat", "message": "hi", "temprature": 0.5},
}


def documents() -> dict[Path, str]:
    """Every generated file, as it should be."""
    block = readme_block()
    return {
        SCHEMA: schema(),
        PACK_SCHEMA: json.dumps(Pack.model_json_schema(), indent=1) + "\n",
        API: filled(API, api_block),
        README: filled(README, block),
        ENHANCE: filled(ENHANCE, block),
        DEPLOY: filled(DEPLOY, lambda _: sizes_table()),
        HUB: hub(),
    }


def schema() -> str:
    """JSON Schema of every request and reply."""
    kinds: TypeAdapter[Any] = TypeAdapter(contracts.Request)
    request = kinds.json_schema(ref_template="#/$defs/{model}")
    definitions = request.pop("$defs")
    for reply in (*REPLIES, replies.InfoReply):
        told = reply.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
        definitions |= told.pop("$defs", {}) | {reply.__name__: told}
    return json.dumps({"$defs": dict(sorted(definitions.items())), **request}, indent=1) + "\n"


def filled(path: Path, block: Callable[[str], str]) -> str:
    """A document with the text between `<!-- begin NAME -->` and `<!-- end -->` made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- begin {match[1]} -->\n{block(match[1])}\n<!-- end -->"

    return re.sub(r"<!-- begin (.+?) -->\n.*?<!-- end -->", fill, path.read_text(encoding="utf-8"), flags=re.DOTALL)


def api_block(name: str) -> str:
    """A table of one contract's fields."""
    kind: type[BaseModel] = getattr(contracts if hasattr(contracts, name) else replies, name)
    inherited = set().union(*(base.model_fields for base in kind.__bases__ if issubclass(base, BaseModel)))
    table = kind.model_json_schema()
    # null in a request is what was not sent; in a reply it is a value to be ready for
    rows = [row(field, table, nulls=hasattr(replies, name)) for field in table["properties"] if field not in inherited]
    return "\n".join(["| field | type | bounds | default | example | |", "|---|---|---|---|---|---|", *rows])


def row(name: str, table: dict[str, Any], *, nulls: bool) -> str:
    """One field: name, type (with null, where `nulls` says so), bounds, default, example, meaning."""
    told = table["properties"][name]
    kind = kind_of(told) + (" or null" if nulls and {"type": "null"} in told.get("anyOf", ()) else "")
    if name in table.get("required", ()):
        default = "required"
    else:
        default = "" if told.get("default") is None else f"`{json.dumps(told['default'])}`"
    example = f"`{json.dumps(told['examples'][0])}`" if "examples" in told else ""
    cells = (f"`{name}`", kind, ", ".join(bounds_of(told)), default, example, told.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def kind_of(told: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in told:
        return " or ".join(kind_of(option) for option in told["anyOf"] if option.get("type") != "null")
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "const" in told:
        return f"`{json.dumps(told['const'])}`"
    if "enum" in told:
        return " or ".join(f"`{json.dumps(value)}`" for value in told["enum"])
    if told.get("type") == "array":
        return f"list of {kind_of(told.get('items', {}))}"
    if isinstance(told.get("additionalProperties"), dict):
        values = kind_of(told["additionalProperties"])
        return "object" if values == "any JSON" else f"object of {values}"
    return str(told.get("type", "any JSON"))


BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {} characters",
    "minItems": "≥ {} items",
    "maxItems": "≤ {} items",
}


def bounds_of(told: dict[str, Any]) -> Iterator[str]:
    """What a field's value must keep to."""
    options = [*told.get("anyOf", ())]
    options += [inner for option in options for inner in option.get("anyOf", ())]
    for option in (told, *options):
        for key, words in BOUNDS.items():
            if key in option:
                number = option[key]
                yield words.format(
                    "2^63" if number == 2**63 else f"{number:g}" if isinstance(number, float) else number
                )


def readme_block() -> Callable[[str], str]:
    """Settings, and examples answered by the demo model (started once, when the first is asked for)."""
    answered = answers()

    def block(name: str) -> str:
        if name == "settings":
            return settings_table()
        request = json.dumps({"input": EXAMPLES[name]}, indent=2, ensure_ascii=False)
        return f"```json\n{request}\n```\nanswers\n```json\n{shown(answered[name])}\n```"

    return block


def shown(reply: dict[str, Any]) -> str:
    """A reply as the console shows it, with short lists on one line."""
    text = json.dumps(reply, indent=2, ensure_ascii=False)
    return re.sub(r"\[\s+([-\d,\s]+?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)


def settings_table() -> str:
    """Every setting with its default."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


#: of Qwen2.5's instruct models: bytes of the weights, and what their config.json says
SHAPES = {
    "Qwen2.5-3B": (6.17e9, ModelShape(32768, 36, 16, 2, 128, 2048, 11008, 151936, 2)),
    "Qwen2.5-7B": (15.23e9, ModelShape(32768, 28, 28, 4, 128, 3584, 18944, 152064, 2)),
    "Qwen2.5-14B": (29.54e9, ModelShape(32768, 48, 40, 8, 128, 5120, 13824, 152064, 2)),
}


def sizes_table() -> str:
    """What the engine makes of a model and of 95 % of a GPU, where both fit."""
    rows = ["| model | weights | GPU | KV cache | its tokens, of all requests together |", "|---|---|---|---|---|"]
    for name, (weights, shape) in SHAPES.items():
        for gpu in (24, 48, 80):
            free = int(0.95 * gpu * GIB - weights)
            if free > 2 * GIB:
                held = plan(EngineOptions(), shape, device="cuda", free_bytes=free).describe()
                cache, tokens = held["kv_cache_gb"], held["kv_cache_tokens"]
                rows.append(f"| {name} | {weights / 1e9:.1f} GB | {gpu} GB | {cache:.1f} GiB | {tokens:,} |")
    return "\n".join(rows)


def hub() -> str:
    """RunPod Hub's listing, with an input for every setting; the rest of the file is kept."""
    listing = json.loads(HUB.read_text(encoding="utf-8"))
    listing["config"]["env"] = [
        {"key": name.upper(), "input": hub_input(name, told)}
        for name, told in Settings.model_json_schema()["properties"].items()
    ]
    return json.dumps(listing, indent=2, ensure_ascii=False) + "\n"


def hub_input(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One field of the Hub's form; left empty it is unset, which is the default where none is told."""
    (kind,) = [option for option in told.get("anyOf", [told]) if option.get("type") != "null"]
    field: dict[str, Any] = {"name": name.upper(), "description": told["description"].replace("`", "")}
    match kind["type"]:
        case "boolean":
            field |= {"type": "boolean", "trueValue": "true", "falseValue": "false"}
        case "integer":
            lowest = kind["minimum"] if "minimum" in kind else kind["exclusiveMinimum"] + 1
            field |= {"type": "number", "min": lowest}
        case "number":
            field |= {"type": "number"}
        case _:
            field |= {"type": "string"}
    if "enum" in kind:
        field["options"] = [{"label": value, "value": value} for value in kind["enum"]]
    if told["default"] is not None:
        field["default"] = told["default"]
    return field | ({} if name in SHOWN_FIRST else {"advanced": True})


def answers() -> dict[str, dict[str, Any]]:
    """What the demo model says to the examples, errors unwrapped."""
    worker = start(Settings.from_environment({"MODEL_PATH": "demo"}), Report())
    answered = {}
    for name, request in EXAMPLES.items():
        end = asyncio.run(worker.jobs.answer({"id": name, "input": request}))
        answered[name] = {"error": end.to_wire()} if isinstance(end, Failure) else replies.to_wire(end)
    worker.engine.close()
    return answered


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
