"""What the documents say is what the code does."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from docs.generate import (
    API,
    ARCHITECTURE,
    DEPLOY,
    ENHANCE,
    HUB,
    OPENAI,
    PACK_SCHEMA,
    README,
    SCHEMA,
    documents,
    openai,
    reply_definitions,
    reply_kinds,
)
from handler import __version__
from handler.api.chat import ChatRequest
from handler.api.enhance import EnhanceRequest
from handler.api.parse import parse
from handler.api.reply import Reply
from handler.api.requests import REQUESTS
from handler.errors import InvalidRequest
from handler.model.snapshot import DEMO
from handler.model.template import Template, Turn
from handler.model.tokenizer import read
from handler.openai.fields import RULES
from handler.settings import Settings

ROOT = Path(__file__).parents[1]
CONTRIBUTING, CHANGELOG = ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"
#: folders whose modules docs/architecture.md lists
PACKAGES = ("handler", "builder", "demo", "runpod_local")
#: values of an example's JSON that differ from run to run
VOLATILE = r'"(message_id|created_at|[a-z_]*_ms|tokens_per_second|processing_time|generation_time)": [^\n]*?(?=,?\n)'


@pytest.fixture(scope="module")
def fresh() -> dict[Path, str]:
    return documents()


@pytest.mark.parametrize(
    "path", [SCHEMA, PACK_SCHEMA, API, README, ARCHITECTURE, ENHANCE, DEPLOY, OPENAI, HUB], ids=lambda path: path.name
)
def test_generated_parts_are_what_the_code_generates_now(path: Path, fresh: dict[Path, str]) -> None:
    written = path.read_text(encoding="utf-8")
    assert re.sub(VOLATILE, "…", written) == re.sub(VOLATILE, "…", fresh[path])


def test_the_tables_of_openais_fields_are_those_that_bodies_are_read_by() -> None:
    written = OPENAI.read_text(encoding="utf-8")
    assert written == openai()
    for rule in RULES:
        assert re.search(rf"^\| `{rule.name}` \| .* \| {rule.verdict} \|", written, re.MULTILINE), rule.name


def test_test_input_is_a_valid_request() -> None:
    job = json.loads((ROOT / "test_input.json").read_text(encoding="utf-8"))
    assert isinstance(parse(job["input"]), EnhanceRequest)


def test_the_schema_of_packs_knows_every_key_of_the_default_pack() -> None:
    schema = json.loads(PACK_SCHEMA.read_text(encoding="utf-8"))
    parts = {**schema["$defs"], "Pack": schema}
    assert all(part["additionalProperties"] is False for part in parts.values())
    pack = json.loads((ROOT / "packs" / "default.json").read_text(encoding="utf-8"))
    assert set(pack) == set(schema["properties"])
    assert set(pack["words"]) == set(parts["Words"]["properties"])
    for kind, values in (("Entry", pack["entries"]), ("Rules", pack["rules"])):
        for value in values.values():
            assert set(parts[kind].get("required", ())) <= set(value) <= set(parts[kind]["properties"])


def test_every_request_field_is_in_the_api_document() -> None:
    text = API.read_text(encoding="utf-8")
    for kind in REQUESTS.values():
        for name in kind.model_fields:
            assert f"| `{name}` |" in text, f"{kind.__name__}.{name}"


def test_every_reply_field_is_in_the_api_document_and_in_the_schema() -> None:
    text, schema = API.read_text(encoding="utf-8"), json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    for kind, definition in reply_definitions().items():
        for name in definition.get("properties", ()):
            assert f"| `{name}` |" in text or (name in Reply.model_fields and f"`{name}`" in text), f"{kind}.{name}"
    for reply in reply_kinds():
        flat = {name for part in reply.FLAT for name in _fields(reply.model_fields[part].annotation)}
        assert flat | (set(reply.model_fields) - set(reply.FLAT)) == set(schema[reply.__name__]["properties"])


def _fields(kind: Any) -> set[str]:
    return set(kind.model_fields)


def test_the_schema_of_replies_says_what_is_always_there_and_allows_no_null_for_an_absent_field() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    chat = schema["ChatReply"]
    optional = {
        *("system_prompt_used", "conversation_history", "conversation_id", "context_type", "project_id"),
        *("finish_reason", "reasoning", "reasoning_cut", "logprobs", "truncated_turns", "prompt_sha256", "variants"),
    }
    assert set(chat["properties"]) - set(chat["required"]) == optional
    assert chat["properties"]["system_prompt_used"]["type"] == "string"
    model = schema["ModelSection"]
    assert set(model["required"]) == set(model["properties"])
    assert {"type": "null"} in model["properties"]["revision"]["anyOf"]


def test_what_the_api_document_says_other_apis_have_is_refused_by_its_name() -> None:
    (section,) = re.findall(r"^## Coming from .*?(?=^## )", API.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    theirs = {
        name for row in re.findall(r"^\| (.+?) \| ", section, re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    }
    foreign = theirs - set(ChatRequest.model_fields)
    assert {"max_completion_tokens", "response_format", "tools"} <= foreign
    for name in foreign:
        with pytest.raises(InvalidRequest, match=rf"^{name}: unknown field(; did you mean \w+\?)?$"):
            parse({"operation": "chat", "message": "hi", name: None})


def test_every_error_code_is_in_the_api_document() -> None:
    from handler import errors

    text = API.read_text(encoding="utf-8")
    for kind in errors.WorkerError.__subclasses__():
        assert f"| `{kind.code}` |" in text


def test_the_version_is_the_changelogs_and_the_projects() -> None:
    changelog = CHANGELOG.read_text(encoding="utf-8")
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)[1] == __version__  # type: ignore[index]
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'default = "{__version__}"' in (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")


def test_the_architecture_document_names_every_module_and_none_that_is_gone() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    modules = {
        str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }  # fmt: skip
    listed = set(re.findall(r"^\| \[`\w+\.py`\]\(\.\./([\w/]+\.py)\) \|", text, re.MULTILINE))
    assert modules <= listed, f"not in a table: {modules - listed}"
    there = modules | {f"{path.parent.relative_to(ROOT)}/__init__.py" for path in ROOT.rglob("__init__.py")}
    assert listed <= there, f"gone: {listed - there}"


@pytest.mark.parametrize("path", [README, ARCHITECTURE, CONTRIBUTING, API], ids=lambda path: path.name)
def test_every_file_and_folder_that_a_document_names_exists(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[[^]]*\]\([^)]*\)", "", text)  # links have a test of their own
    named = re.findall(r"`((?:\.?\w+/)+(?:[\w-]+\.\w+)?|[A-Z]\w+\.md|\w+\.(?:py|toml|hcl))`", text)
    assert named
    for name in named:
        assert any((place / name).exists() for place in (ROOT, ROOT / "handler")), name


def test_the_readme_is_short_and_names_every_folder_of_code() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for folder in folders:
        assert f"| `{folder}/` |" in text, folder


def test_the_readmes_eight_settings_are_in_the_table_of_all() -> None:
    row = re.compile(r"^\| `([A-Z_]+)` \|.*$", re.MULTILINE)
    some = row.findall(README.read_text(encoding="utf-8"))
    assert len(some) == 8
    every = row.findall(DEPLOY.read_text(encoding="utf-8").rpartition("## Settings")[2])
    assert every == [name.upper() for name in Settings.model_fields]
    assert set(some) <= set(every)


def test_links_lead_to_files_and_headings_that_exist() -> None:
    documents = [README, CONTRIBUTING, CHANGELOG, *ROOT.glob("docs/**/*.md")]
    anchors = {path: {anchor_of(line) for line in headings(path)} for path in documents}
    for document in documents:
        for target, _, anchor in re.findall(
            r"\]\((?!https?://)([^)#]*)(#?)([^)]*)\)", document.read_text(encoding="utf-8")
        ):
            path = (document.parent / target).resolve() if target else document
            assert path.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors[path], f"{document.name}: {target}#{anchor}"


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def anchor_of(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_the_fidelity_documents_code_computes_the_hash_that_replies_carry() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(DEMO, local_files_only=True))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi\n"}]
    rendered = Template(read(DEMO, "demo")).chat([Turn(**message) for message in messages], 100)
    assert scope["prompt_sha256"](tokenizer, messages) == rendered.sha256
