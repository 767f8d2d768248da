"""OpenAI's own client against a base URL: run by a Python that has `openai`, which the worker's environment has not.

    PYTHON tests/support/openai_client.py BASE_URL

It prints one JSON object: what each of `SCENES` saw, with every reply validated strictly against the client's types.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import openai
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0, "seed": 7}


def strict(kind: Any, value: Any) -> Any:
    """The value, once its JSON is valid for the type."""
    kind.model_validate_json(value.model_dump_json(exclude_unset=True), strict=True)
    return value


def plain(client: openai.OpenAI) -> Any:
    reply = strict(ChatCompletion, client.chat.completions.create(model="demo", **ASKED))
    assert reply.model_extra["worker"]["ignored"] == []
    sampling = reply.model_extra["worker"]["sampling"]
    sampling.pop("seed")
    sampling["logit_bias"] = sampling.get("logit_bias", {})
    again = client.chat.completions.create(
        model="demo", messages=ASKED["messages"], seed=7, extra_body={**sampling, "stop": []}
    )
    assert again.choices[0].message.content == reply.choices[0].message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    return reply.choices[0].message.content


def logprobs(client: openai.OpenAI) -> Any:
    told = client.chat.completions.create(model="demo", logprobs=True, top_logprobs=2, max_tokens=5, **ASKED)
    content = strict(ChatCompletion, told).choices[0].logprobs.content
    assert all(len(one.top_logprobs) == 2 for one in content)
    return [bytes(one.bytes).decode() for one in content], told.choices[0].finish_reason


def stream(client: openai.OpenAI) -> Any:
    options: Any = {"include_usage": True}
    chunks = [
        strict(ChatCompletionChunk, chunk)
        for chunk in client.chat.completions.create(model="demo", stream=True, stream_options=options, **ASKED)
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].model_extra["worker"]["finish_reason"] == "stop"
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), chunks[-1].usage.total_tokens


def completion(client: openai.OpenAI) -> Any:
    whole = strict(Completion, client.completions.create(model="demo", prompt="Once", seed=7, max_tokens=9))
    told = client.completions.create(model="demo", prompt="Once", seed=7, max_tokens=9, stream=True)
    chunks = [*told]
    strict(Completion, chunks[-1])  # in those before it the reason is null, which OpenAI sends and its types leave out
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    return whole.choices[0].finish_reason


def models(client: openai.OpenAI) -> Any:
    return [strict(Model, model).id for model in client.models.list()]


def _refused(ask: Callable[[], Any]) -> Any:
    try:
        ask()
    except openai.APIStatusError as error:
        return type(error).__name__, error.status_code, error.code, error.param, str(error)
    except openai.APIError as error:
        return type(error).__name__, None, error.code, error.param, str(error)
    return None


def refused(client: openai.OpenAI) -> Any:
    return _refused(lambda: client.chat.completions.create(model="demo", tools=[{"type": "x"}], **ASKED))


def wrong_model(client: openai.OpenAI) -> Any:
    return _refused(lambda: client.chat.completions.create(model="gpt-4o", **ASKED))


def refused_stream(client: openai.OpenAI) -> Any:
    return _refused(lambda: [*client.chat.completions.create(model="gpt-4o", stream=True, **ASKED)])


SCENES = (plain, logprobs, stream, completion, models, refused, wrong_model, refused_stream)


def main() -> None:
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
    sys.stdout.write(json.dumps({scene.__name__: scene(client) for scene in SCENES}))


if __name__ == "__main__":
    main()
