"""Checkpoints of genuine architecture that say what they are told to, and workers over them.

Attention and MLP add nothing to the residual, and each row of the head looks for the token before it: so the next token
depends on the last one alone, through the real start, template, engine and line.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from handler.api.failure import Failure
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.inference.loop import BatchingEngine
from handler.job import Jobs
from handler.model.snapshot import DEMO
from handler.model.tokenizer import read
from handler.report import Report
from handler.settings import Settings
from handler.start import start

ARCHITECTURES = ("qwen2", "qwen3")
#: the demo's template, which ends a turn with <|im_end|>
CHATML = (DEMO / "chat_template.jinja").read_text(encoding="utf-8")
GENERATION_PROMPT = "{{- '<|im_start|>assistant\\n' }}"
#: templates of each kind; the first one never thinks
TEMPLATES = {
    "never": CHATML,
    "choice": CHATML.replace(
        GENERATION_PROMPT,
        "{{- '<|im_start|>assistant\\n' + ('' if enable_thinking else '<think>\\n\\n</think>\\n\\n') }}",
    ),
    "always": CHATML.replace(GENERATION_PROMPT, "{{- '<|im_start|>assistant\\n<think>\\n' }}"),
}
#: rows of embedding and head: those of the demo's tokenizer, and the tokens that a script adds
ROWS = 2048
HIDDEN = 128


def write(
    path: Path,
    *scripts: Sequence[str],
    architecture: str = "qwen2",
    template: str = CHATML,
    special: Sequence[str] = (),
    config: Mapping[str, Any] = {},
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint that goes on with each text of a script after the one before it; each text is one token.

    A text that is no token of the demo's tokenizer is added to it; those in `special` as special tokens. `generation`
    is generation_config.json, which is absent where it is None.
    """
    path.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, path)
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    texts = list(dict.fromkeys(text for script in scripts for text in script))
    ids = add_tokens(path, texts, special)
    model = _model(architecture, config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        embedding, head = model.get_parameter("model.embed_tokens.weight"), model.get_parameter("lm_head.weight")
        for last, following in (pair for script in scripts for pair in pairwise(script)):
            head[ids[following]] += embedding[ids[last]]
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path


def altered(
    path: Path, *, template: str = CHATML, config: Mapping[str, Any] = {}, generation: Mapping[str, Any] | None = None
) -> Path:
    """A copy of the demo checkpoint with another template and other values; None leaves generation_config.json out."""
    shutil.copytree(DEMO, path)
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**content, **config}), encoding="utf-8")
    (path / "generation_config.json").unlink()
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path


def add_tokens(path: Path, texts: Sequence[str], special: Sequence[str] = ()) -> dict[str, int]:
    """Add the texts that are no tokens yet to tokenizer.json; returns the id of each."""
    backend = read(path, "scripted").backend
    file = path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    ids, free = dict[str, int](), backend.get_vocab_size()
    for text in texts:
        own = backend.encode(text, add_special_tokens=False).ids
        if len(own) == 1:
            ids[text] = own[0]
            continue
        ids[text] = free + len(content["added_tokens"]) - 3
        content["added_tokens"].append(
            {"id": ids[text], "content": text, "special": text in special, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        )  # fmt: skip
    file.write_text(json.dumps(content), encoding="utf-8")
    return ids


def _model(architecture: str, config: Mapping[str, Any]) -> PreTrainedModel:
    torch.manual_seed(5)
    shape: dict[str, Any] = {
        "vocab_size": ROWS, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": False, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None, "initializer_range": 1.0, **config,
    }  # fmt: skip
    if architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(head_dim=32, **shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape))


class Line:
    """A started worker: `ask` is one job through all of it."""

    def __init__(self, jobs: Jobs, engine: BatchingEngine) -> None:
        self.jobs, self.engine = jobs, engine

    def ask(self, **fields: Any) -> Reply | Failure:
        """The end of one job; greedy where nothing else is wished for."""
        return self.pieces(**fields)[1]

    def pieces(self, **fields: Any) -> tuple[list[Piece], Reply | Failure]:
        sent = {"temperature": 0, **fields}
        if fields.get("operation") == "info":
            sent = fields

        async def gather() -> list[Piece | Reply | Failure]:
            return [event async for event in self.jobs.run({"id": "1", "input": sent})]

        *pieces, end = asyncio.run(gather())
        assert not isinstance(end, Piece)
        return [piece for piece in pieces if isinstance(piece, Piece)], end

    def told(self, **fields: Any) -> Any:
        """The reply as its JSON; the test fails where the job did."""
        end = self.ask(**fields)
        assert isinstance(end, Reply), end
        return to_wire(end)

    def refused(self, **fields: Any) -> Failure:
        """The failure of a job that must fail."""
        end = self.ask(**fields)
        assert isinstance(end, Failure), end
        return end


@contextmanager
def started(path: Path, **settings: Any) -> Iterator[Line]:
    """A worker over a checkpoint, as `python -m handler` starts one."""
    worker = start(Settings(model_path=str(path), **settings), Report())
    try:
        yield Line(worker.jobs, worker.engine)
    finally:
        worker.engine.close()
