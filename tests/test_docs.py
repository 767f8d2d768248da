"""What the documents say is what the code does."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from docs.generate import API, DEPLOY, ENHANCE, HUB, PACK_SCHEMA, README, SCHEMA, documents
from handler import __version__
from handler.api import contracts
from handler.api import parse as door
from handler.errors import InvalidRequest
from handler.model.snapshot import DEMO
from handler.model.template import Template, Turn
from handler.model.tokenizer import read

ROOT = Path(__file__).parents[1]
#: what differs from run to run, in an example's JSON
VOLATILE = r'"(message_id|created_at|[a-z_]*_ms|tokens_per_second|processing_time|generation_time)": [^\n]*?(?=,?\n)'


@pytest.fixture(scope="module")
def fresh() -> dict[Path, str]:
    return documents()


@pytest.mark.parametrize("path", [SCHEMA, PACK_SCHEMA, API, README, ENHANCE, DEPLOY, HUB], ids=lambda path: path.name)
def test_generated_parts_are_what_the_code_generates_now(path: Path, fresh: dict[Path, str]) -> None:
    written = path.read_text(encoding="utf-8")
    assert re.sub(VOLATILE, "…", written) == re.sub(VOLATILE, "…", fresh[path])


def test_test_input_is_a_request_that_the_door_lets_in() -> None:
    job = json.loads((ROOT / "test_input.json").read_text(encoding="utf-8"))
    assert isinstance(door.parse(job["input"]), contracts.EnhanceRequest)


def test_the_schema_of_packs_knows_every_key_of_the_default_pack() -> None:
    schema = json.loads(PACK_SCHEMA.read_text(encoding="utf-8"))
    parts = {**schema["$defs"], "Pack": schema}
    assert all(part["additionalProperties"] is False for part in parts.values())
    pack = json.loads((ROOT / "packs" / "default.json").read_text(encoding="utf-8"))
    assert set(pack) == set(schema["properties"])
    for kind, values in (("Entry", pack["entries"]), ("Rules", pack["rules"])):
        for value in values.values():
            assert set(parts[kind].get("required", ())) <= set(value) <= set(parts[kind]["properties"])


def test_every_request_field_is_in_the_api_document() -> None:
    text = API.read_text(encoding="utf-8")
    for kind in (contracts.ChatRequest, contracts.GenerateRequest, contracts.EnhanceRequest, contracts.InfoRequest):
        for name in kind.model_fields:
            assert f"| `{name}` |" in text, f"{kind.__name__}.{name}"


def test_what_the_api_document_says_other_apis_have_is_refused_by_its_name() -> None:
    (section,) = re.findall(r"^## Coming from .*?(?=^## )", API.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    theirs = {
        name for row in re.findall(r"^\| (.+?) \| ", section, re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    }
    foreign = theirs - set(contracts.ChatRequest.model_fields)
    assert {"max_completion_tokens", "response_format", "tools", "n"} <= foreign
    for name in foreign:
        with pytest.raises(InvalidRequest, match=f"^{name}: unknown field$"):
            door.parse({"operation": "chat", "message": "hi", name: None})


def test_every_error_code_is_in_the_api_document() -> None:
    from handler import errors

    text = API.read_text(encoding="utf-8")
    for kind in errors.WorkerError.__subclasses__():
        assert f"| `{kind.code}` |" in text


def test_the_version_is_the_changelogs_and_the_projects() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)[1] == __version__  # type: ignore[index]
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'default = "{__version__}"' in (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")


def test_the_readmes_tree_names_every_module_and_none_that_is_gone() -> None:
    (tree,) = re.findall(r"^handler/$.*?^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    code = [*ROOT.glob("handler/*.py"), *ROOT.glob("handler/[!e]*/*.py"), *ROOT.glob("builder/*.py")]
    modules = {path.name for path in code} - {"__init__.py", "demo_text.py"}
    named = set(re.findall(r"[a-z_]+\.py", tree))
    assert modules <= named, f"not in the tree: {modules - named}"
    there = {path.name for folder in ("handler", "builder", "tests") for path in (ROOT / folder).rglob("*.py")}
    assert named <= there, f"gone: {named - there}"


def test_links_lead_to_files_and_headings_that_exist() -> None:
    documents = [README, *ROOT.glob("docs/**/*.md")]
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
