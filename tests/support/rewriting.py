"""A scripted model for tests of the flow of an enhancement, and how they read its reply."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handler.api.enhance import BudgetFacts, Enhancement, EnhanceReply
from handler.api.parse import parse
from handler.api.reply import Reply
from handler.engine.fold import Piece
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Stream
from handler.enhancement.packs import Loaded, Packs
from handler.errors import (
    WorkerError,
)
from handler.operations.operations import Operations
from tests.support.enhancing import pack_json
from tests.support.fakes import ScriptedEngine

Line = Callable[[ScriptedEngine], Operations]
PROMPT = "two red foxes in the snow, no people"
#: an answer with which nothing is wrong
GOOD = "two red foxes in the snow, no people, soft light, sharp focus, highly detailed"
MESSAGES = [{"role": "user", "content": PROMPT}]
CLIP = {"encoder": "clip", "max_tokens": 75}
#: answers that are no prompt, each with its fault
BAD_ANSWERS = [
    ("", "empty"),
    ("<think>so the user wants", "empty"),
    ("...", "empty"),
    ("I'm sorry, but I can't help with that.", "refusal"),
    ("I’m sorry, I cannot do this", "refusal"),
    ("Here is a prompt for you", "question"),
    ("Here is a prompt for you:", "question"),
    ("Two red foxes in the snow, no people.", "unchanged"),
    ("Copy quoted text, tags in angle brackets and weights in parentheses exactly.", "echo"),
    (f"{PROMPT}, a special place, a special place, a special place, a special place", "loop"),
    ("a whale in deep water, rays of light from above, tiny fish around it", "off_subject"),
    ("雪の中の二匹の赤い狐", "language"),
    ("two red foxes in the snow, no people, 柔和的光", "language"),
]
#: the text of one token
TOKEN = re.compile(r"\S+\s*|\s+")


@dataclass
class Model(ScriptedEngine):
    """Gives one answer after another, then the last one again."""

    says: Sequence[str | WorkerError | Exception] = (GOOD,)
    asked: list[Sampling] = field(default_factory=list)

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        said = self.says[min(len(self.asked), len(self.says) - 1)]
        self.asked.append(sampling)
        if isinstance(said, WorkerError):
            self.script = (said,)
        elif isinstance(said, Exception):
            raise said
        else:
            self.script = TOKEN.findall(said)
        return super().stream(prompt, sampling, logprobs=logprobs, deadline=deadline)


def wide(*says: str | WorkerError | Exception, **fields: Any) -> Model:
    return Model(says=says or (GOOD,), max_model_len=100_000, **fields)


def run(operations: Operations, **fields: Any) -> EnhanceReply:
    async def gather() -> list[Piece | Reply]:
        return [event async for event in operations.run(parse({"operation": "enhance", **fields}))]

    *_, reply = asyncio.run(gather())
    assert isinstance(reply, EnhanceReply)
    return reply


def by_pack(operations: Operations, **fields: Any) -> EnhanceReply:
    """In mode rewrite, unless a mode is among the fields."""
    return run(operations, **{"prompt": PROMPT, "job_type": "sdxl_image_fast", "seed": 7, "mode": "rewrite", **fields})


def extended(operations: Operations, **fields: Any) -> EnhanceReply:
    """In mode extend, which is the default pack's."""
    return run(operations, **{"prompt": PROMPT, "job_type": "sdxl_image_fast", "seed": 7, **fields})


def by_template(operations: Operations, **fields: Any) -> EnhanceReply:
    """With the caller's own template, for an entry's target."""
    fields = {"prompt": PROMPT, "system_prompt": "Rewrite.", "job_type": "sdxl_image_fast", "seed": 7, **fields}
    return run(operations, **fields)


def without_compose(operations: Operations) -> Operations:
    """The same with a pack that has no `compose` clauses."""
    value = pack_json()
    for entry in value["entries"].values():
        entry["compose"] = []
    core = operations.core
    return Operations(replace(core, enhancer=replace(core.enhancer, packs=Packs((Loaded.of(value),)))))


def judged(reply: EnhanceReply) -> Enhancement:
    """The reply's `enhancement`, which must be there."""
    assert reply.enhanced.enhancement is not None
    return reply.enhanced.enhancement


def measured(reply: EnhanceReply) -> BudgetFacts:
    """The reply's `enhancement.budget`, which must be there."""
    budget = judged(reply).budget
    assert budget is not None
    return budget


def failed(reply: EnhanceReply) -> list[str]:
    """The hard checks that failed."""
    return [name for name, check in judged(reply).failed_checks.items() if check.hard]


def code_of(reply: EnhanceReply) -> str | None:
    """The code of `degraded`; None where it is absent."""
    degraded = reply.enhanced.degraded
    return None if degraded is None else degraded.code
