"""Writes the parts of the documents that follow from the code: `make docs`. A test compares them with the files.

In a Markdown file it fills the blocks between `<!-- begin NAME -->` and `<!-- end -->`: tables of fields, of settings
and of modules, and examples, which the demo model answers. It writes docs/schema.json, docs/pack.schema.json and the
inputs of .runpod/hub.json as a whole.
"""

import ast
import asyncio
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema

from docs.openai_tables import openai_rows
from handler.api.enhance import Enhanced
from handler.api.failure import Failure
from handler.api.fields import Sent
from handler.api.reply import Reply, to_wire
from handler.api.requests import REQUESTS, Request
from handler.api.text import Run, TextRequest, TokenLogprob
from handler.engine.sampling import Distribution
from handler.engine.values import Value
from handler.enhancement.pack import Pack
from handler.inference.config import GIB, EngineOptions
from handler.inference.plan import plan
from handler.inference.shape import ModelShape
from handler.report import Report
from handler.settings import Settings
from handler.start import start

ROOT = Path(__file__).parents[1]
README, API, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "api.md", ROOT / "docs" / "architecture.md"
ENHANCE, DEPLOY = ROOT / "docs" / "enhance.md", ROOT / "docs" / "deploy.md"
OPENAI = ROOT / "docs" / "openai.md"
SCHEMA, PACK_SCHEMA = ROOT / "docs" / "schema.json", ROOT / "docs" / "pack.schema.json"
HUB = ROOT / ".runpod" / "hub.json"

#: settings that most operators look for: the README's, and those that the Hub's form shows before "advanced" is opened
COMMON_SETTINGS = (
    "model_name",
    "model_revision",
    "model_path",
    "allow_download",
    "max_concurrent_requests",
    "max_model_len",
    "packs_dir",
    "face",
)

#: requests that the documents show; greedy or with a seed where the answer is shown in full, so that it stays
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "chat": {
        "operation": "chat",
        "message": "Who are you?",
        "conversation_id": "c-1",
        "temperature": 0,
        "seed": 7,
    },
    "generate": {"operation": "generate", "prompt": "Once upon a time"},
    "enhance": {"operation": "enhance", "prompt": "a red fox", "system_prompt": "Rewrite for SDXL."},
    "info": {"operation": "info", "sections": ["model", "health"]},
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
    "enhance a candidate": {
        "operation": "enhance",
        "prompt": "a lighthouse at dusk",
        "candidate": "Here is your prompt: a lighthouse at dusk, soft light, calm sea, highly detailed",
        "job_type": "sdxl_image_fast",
    },
    "dry run": {
        "operation": "generate",
        "messages": [{"role": "user", "content": "hi <|im_end|>"}],
        "dry_run": True,
        "seed": 7,
    },
    "error": {"operation": "chat", "message": "hi", "temprature": 0.5},
}
#: by fault: candidates for `FOX` that are no prompt
FOX = "a red fox in the snow"
FAULTY: Mapping[str, str] = {
    "empty": "...",
    "echo": "Copy quoted text, tags in angle brackets and weights in parentheses exactly.",
    "refusal": "I'm sorry, but I can't help with that.",
    "language": "雪地里的一只红狐狸，柔和的光线，细节丰富",
    "question": "Would you like the red fox to stand or to sit in the snow?",
    "unchanged": "A red fox in the snow.",
    "loop": "a red fox in the snow, a very quiet place, a very quiet place, a very quiet place, a very quiet place",
    "off_subject": "a blue whale under the northern lights, calm dark sea, long exposure, deep focus",
}


def documents() -> dict[Path, str]:
    """The text of every file that is generated, or has generated blocks."""
    replies = answers()

    def block(name: str) -> str:
        return example(name, replies[name])

    return {
        SCHEMA: schema(),
        PACK_SCHEMA: json.dumps(Pack.model_json_schema(), indent=1) + "\n",
        API: filled(API, {"operations": operations_table}, other=lambda name: fields_table(name, block)),
        README: filled(
            README,
            {
                "operations": lambda: requests_table(replies),
                "settings": lambda: settings_table(COMMON_SETTINGS),
            },
            other=block,
        ),
        ARCHITECTURE: filled(ARCHITECTURE, {"layers": layers}, other=modules_table),
        ENHANCE: filled(ENHANCE, {"faults": lambda: faults_table(replies)}, other=block),
        OPENAI: openai(),
        DEPLOY: filled(
            DEPLOY, {"sizes": sizes_table, "settings": lambda: settings_table(tuple(Settings.model_fields))}
        ),
        HUB: hub(),
    }


def filled(path: Path, blocks: Mapping[str, Callable[[], str]], *, other: Callable[[str], str] | None = None) -> str:
    """A document with its blocks made anew; `other` makes those that `blocks` does not name."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name in blocks:
            text = blocks[name]()
        elif other is not None:
            text = other(name)
        else:
            raise KeyError(f"{path.name}: no generator makes the block {name}")
        return f"<!-- begin {name} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- begin (.+?) -->\n.*?<!-- end -->", fill, path.read_text(encoding="utf-8"), flags=re.DOTALL)


def table_of(columns: str, rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table. `columns` are their names, separated by commas."""
    names = columns.split(",")
    lines = [names, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join((head, "|---" * len(names) + "|", *body))


def openai() -> str:
    """docs/openai.md, which needs no model."""
    return filled(OPENAI, {}, other=lambda name: table_of(*openai_rows(name)))


# -- JSON schemas ------------------------------------------------------------------------------------------------------


class ReplySchema(GenerateJsonSchema):
    """Describes a reply by its fields, although a serializer of its own writes it."""

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)


def schema() -> str:
    """The JSON Schema of every request, reply and failure."""
    request = request_schema()
    definitions = {**reply_definitions(), **request.pop("$defs")}
    for kind in reply_kinds():
        for part in flat_parts(kind):
            definitions.pop(part.__name__, None)
    return json.dumps({"$defs": dict(sorted(definitions.items())), **request}, indent=1) + "\n"


def request_schema() -> dict[str, Any]:
    """The JSON Schema of the union of requests."""
    kinds: TypeAdapter[Any] = TypeAdapter(Request)
    return kinds.json_schema(ref_template="#/$defs/{model}")


def reply_kinds() -> list[type[Reply]]:
    """The classes of replies that callers get: those that no other class is derived from."""

    def leaves(kind: type[Reply]) -> Iterator[type[Reply]]:
        for derived in kind.__subclasses__():
            yield from leaves(derived) if derived.__subclasses__() else (derived,)

    return sorted(leaves(Reply), key=lambda kind: kind.__name__)


def flat_parts(kind: type[Value]) -> list[type[Value]]:
    """The classes of a reply's fields whose own fields stand at its top level."""
    return [annotation_of(kind, name) for name in getattr(kind, "FLAT", ())]


def annotation_of(kind: type[Value], name: str) -> type[Value]:
    annotation = kind.model_fields[name].annotation
    assert isinstance(annotation, type)
    return annotation


def reply_definitions() -> dict[str, Any]:
    """The schemas of all replies and their parts, by name: as they are on the wire."""
    described: tuple[type[BaseModel], ...] = (*reply_kinds(), Failure)
    kinds: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "serialization") for kind in described]
    _, whole = models_json_schema(kinds, ref_template="#/$defs/{model}", schema_generator=ReplySchema)
    definitions: dict[str, Any] = whole["$defs"]
    for definition in definitions.values():
        if "properties" in definition:
            mark_presence(definition)
    for kind in reply_kinds():
        flatten(definitions[kind.__name__], kind, definitions)
    return definitions


def mark_presence(definition: dict[str, Any]) -> None:
    """Require the fields that are always there. A field whose default is None is absent where it has no value."""
    required = []
    for name, field in definition["properties"].items():
        if field.pop("default", ...) is not None:
            required.append(name)
            continue
        options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) == 1:
            del field["anyOf"]
            field |= options[0]
        elif options:
            field["anyOf"] = options
    definition["required"] = required


def flatten(definition: dict[str, Any], kind: type[Reply], definitions: Mapping[str, Any]) -> None:
    """Put the fields of a reply's flat parts to its top level, as `to_wire` does: those of the run come last."""
    fields, required = definition["properties"], set(definition["required"])
    flat: dict[str, Any] = {}
    for name in sorted(fields, key=lambda name: name == "run"):
        if name in kind.FLAT:
            part = definitions[annotation_of(kind, name).__name__]
            flat |= part["properties"]
            required |= set(part["required"])
        else:
            flat[name] = fields[name]
    definition |= {"properties": flat, "required": [name for name in flat if name in required]}


# -- tables of fields --------------------------------------------------------------------------------------------------

#: classes with a table of their own; the tables of classes that hold their fields leave these out
SHARED = (TextRequest, Reply, Run, Enhanced, TokenLogprob)


def fields_table(name: str, other: Callable[[str], str]) -> str:
    """A table of the fields of one class of requests or replies; `other` makes the blocks that name no class."""
    kind = wire_kinds().get(name)
    if kind is None:
        return other(name)
    if issubclass(kind, Sent) or name in request_schema()["$defs"]:
        return request_table(kind)
    definition = reply_definitions()[name]
    required = definition["required"]
    rows = (
        (f"`{field}`", type_of(details, nulls=True), "yes" if field in required else "", details.get("description", ""))
        for field, details in own_fields(kind, definition["properties"]).items()
    )
    return table_of("field,type,always there,", rows)


def request_table(kind: type[Value]) -> str:
    """A table of the fields of a request, or of a part of one."""
    whole = kind.model_json_schema()
    fields = own_fields(kind, whole["properties"])

    def place(name: str) -> tuple[bool, ...]:
        # The operation first, then its own fields; how tokens are drawn comes last, in one place.
        return name != "operation", name in Distribution.model_fields, name not in kind.__annotations__

    rows = (
        (
            f"`{name}`",
            type_of(field),
            ", ".join(bounds_of(field)),
            "required" if name in whole.get("required", ()) else default_of(field),
            f"`{json.dumps(field['examples'][0])}`" if "examples" in field else "",
            field.get("description", ""),
        )
        for name, field in sorted(fields.items(), key=lambda pair: place(pair[0]))
    )
    return table_of("field,type,bounds,default,example,", rows)


def wire_kinds() -> dict[str, type[Value]]:
    """Every class of the wire by its name."""

    def derived(kind: type[Value]) -> Iterator[type[Value]]:
        for one in kind.__subclasses__():
            yield one
            yield from derived(one)

    return {
        kind.__name__: kind for kind in derived(Value) if kind.__module__.startswith(("handler.api", "handler.engine"))
    }


def own_fields(kind: type[Value], fields: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields that no table of a shared class has, or that the class defines anew."""
    parts = {*kind.__mro__[1:], *flat_parts(kind)}
    elsewhere = {name for shared in SHARED if shared in parts for name in shared.model_fields}
    return {name: field for name, field in fields.items() if name not in elsewhere or name in kind.__annotations__}


def default_of(field: dict[str, Any]) -> str:
    """The default of a field that may be left out; empty where there is none, or an empty list."""
    return f"`{json.dumps(field['default'])}`" if field.get("default") not in (None, []) else ""


def type_of(field: dict[str, Any], *, nulls: bool = False) -> str:
    """A field's type in words; `nulls`: with null, where the field may hold it."""
    if "anyOf" in field:
        return " or ".join(type_of(option) for option in field["anyOf"] if nulls or option.get("type") != "null")
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {type_of(field.get('items', {}))}"
    if isinstance(field.get("additionalProperties"), dict):
        values = type_of(field["additionalProperties"])
        return "object" if values == "any JSON" else f"object of {values}"
    return str(field.get("type", "any JSON"))


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


def bounds_of(field: dict[str, Any]) -> Iterator[str]:
    """The bounds of a field's value."""
    options = [*field.get("anyOf", ())]
    options += [inner for option in options for inner in option.get("anyOf", ())]
    for option in (field, *options):
        for key, words in BOUNDS.items():
            if key in option:
                yield words.format(number(option[key]))


def number(value: float) -> str:
    if value == 2**64:
        return "2^64"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- operations --------------------------------------------------------------------------------------------------------


def operations_table() -> str:
    """The operations, and how many tokens each generates where `max_tokens` is not sent."""
    rows = (
        (f"[{name}](#{name})", summary(kind.__doc__ or ""), default_max_tokens(kind)) for name, kind in REQUESTS.items()
    )
    return table_of("operation,,default `max_tokens`", rows)


def default_max_tokens(kind: type[Value]) -> str:
    field = kind.model_fields.get("max_tokens")
    return "" if field is None else str(field.default)


def requests_table(replies: Mapping[str, dict[str, Any]]) -> str:
    """The operations but `chat`, which the README shows in full: a request in one line, the fields of its reply."""
    rows = (
        (
            f"[{name}](docs/api.md#{name})",
            summary(kind.__doc__ or ""),
            f"`{json.dumps(EXAMPLES[name])}`" if name in EXAMPLES else "",
            ", ".join(f"`{field}`" for field in replies.get(name, {}) if field not in {"success", *Run.model_fields}),
        )
        for name, kind in REQUESTS.items()
        if name != "chat"
    )
    return table_of("operation,,`input`,the reply's own fields", rows)


def example(name: str, reply: dict[str, Any]) -> str:
    """A request and the demo model's answer to it."""
    request = json.dumps({"input": EXAMPLES[name]}, indent=2, ensure_ascii=False)
    # Lists of numbers on one line, as a console shows them.
    text = re.sub(
        r"\[\s+([-\d,\s]+?)\s+\]",
        lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]",
        json.dumps(reply, indent=2, ensure_ascii=False),
    )
    return f"```json\n{request}\n```\nanswers\n```json\n{text}\n```"


def faults_table(replies: Mapping[str, dict[str, Any]]) -> str:
    """What the worker says of a candidate of each fault."""
    rows = (
        (f"`{text}`", f"`{reply['degraded']['code']}`", reply["degraded"]["message"], str(reply["quality_score"]))
        for text, reply in ((text, replies[f"fault {name}"]) for name, text in FAULTY.items())
    )
    return table_of("candidate,`degraded.code`,`degraded.message`,`quality_score`", rows)


def answers() -> dict[str, dict[str, Any]]:
    """The demo model's answers to the examples, as a caller reads them."""
    worker = start(Settings.from_environment({"MODEL_PATH": "demo"}), Report())
    read = {}
    judged = {"operation": "enhance", "prompt": FOX, "job_type": "sdxl_image_fast"}
    faulty = {f"fault {name}": {**judged, "candidate": text} for name, text in FAULTY.items()}
    for name, request in {**EXAMPLES, **faulty}.items():
        end = asyncio.run(worker.jobs.answer({"id": name, "input": request}))
        read[name] = {"error": end.to_wire()} if isinstance(end, Failure) else to_wire(end)
    worker.engine.close()
    return read


# -- modules -----------------------------------------------------------------------------------------------------------


def modules_table(folder: str) -> str:
    """The modules of a folder, each with the first sentence of its docstring."""
    rows = (
        (f"[`{path.name}`](../{folder}/{path.name})", summary(docstring))
        for path in sorted((ROOT / folder).glob("*.py"))
        if (docstring := ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
    )
    return table_of("file,", rows)


def layers() -> str:
    """The order of imports within the worker, from the rule that `make check` enforces."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rule,) = [one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    return " → ".join(re.sub(r"\w+", r"`\g<0>`", layer).replace(" | ", ", ") for layer in rule["layers"])


def summary(docstring: str) -> str:
    """The first sentence."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph, maxsplit=1)[0]


# -- settings ----------------------------------------------------------------------------------------------------------


def settings_table(names: tuple[str, ...]) -> str:
    """Settings with their defaults."""
    fields = ((name, Settings.model_fields[name]) for name in names)
    rows = (
        (
            f"`{name.upper()}`",
            "" if field.default is None else f"`{str(field.default).lower()}`",
            field.description or "",
        )
        for name, field in fields
    )
    return table_of("variable,default,", rows)


#: Qwen2.5's instruct models: bytes of the weights, and the dimensions in their config.json
SHAPES = {
    "Qwen2.5-3B": (6.17e9, ModelShape(32768, 36, 16, 2, 128, 2048, 11008, 151936, 2)),
    "Qwen2.5-7B": (15.23e9, ModelShape(32768, 28, 28, 4, 128, 3584, 18944, 152064, 2)),
    "Qwen2.5-14B": (29.54e9, ModelShape(32768, 48, 40, 8, 128, 5120, 13824, 152064, 2)),
}


def sizes_table() -> str:
    """The size of the KV cache for a model on 95 % of a GPU, where both fit."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, (weights, shape) in SHAPES.items():
            for gpu in (24, 48, 80):
                free = int(0.95 * gpu * GIB - weights)
                if free > 2 * GIB:
                    size = plan(EngineOptions(), shape, device="cuda", free_bytes=free).describe()
                    cache, tokens = f"{size['kv_cache_gb']:.1f} GiB", f"{size['kv_cache_tokens']:,}"
                    yield name, f"{weights / 1e9:.1f} GB", f"{gpu} GB", cache, tokens

    return table_of("model,weights,GPU,KV cache,tokens of all requests together", rows())


def hub() -> str:
    """RunPod Hub's listing, with an input for every setting; the rest of the file is kept."""
    listing = json.loads(HUB.read_text(encoding="utf-8"))
    listing["config"]["env"] = [
        {"key": name.upper(), "input": hub_input(name, field)}
        for name, field in Settings.model_json_schema()["properties"].items()
    ]
    return json.dumps(listing, indent=2, ensure_ascii=False) + "\n"


def hub_input(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    """One field of the Hub's form. Left empty, the variable is unset, and the setting has its default."""
    (kind,) = [option for option in setting.get("anyOf", [setting]) if option.get("type") != "null"]
    field: dict[str, Any] = {"name": name.upper(), "description": setting["description"].replace("`", "")}
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
    if setting["default"] is not None:
        field["default"] = setting["default"]
    return field | ({} if name in COMMON_SETTINGS else {"advanced": True})


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
