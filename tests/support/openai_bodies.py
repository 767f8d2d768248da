"""Bodies of OpenAI's API for tests, and a value of each refused field that is not neutral."""

from typing import Any

from handler.openai.fields import Kind
from handler.openai.served import Served

SERVED = Served("Qwen/Qwen2.5-7B-Instruct", "fp_0123456789ab", 1_700_000_000)
PATHS: dict[Kind, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
BODIES: dict[Kind, dict[str, Any]] = {"chat": {"messages": HI}, "completions": {"prompt": "hi"}}
#: values with an effect, of honoured fields
HONOURED: dict[str, Any] = {
    "model": "qwen/qwen2.5-7b-instruct",
    "messages": [*HI, {"role": "system", "content": "x"}, *HI],
    "prompt": ["hi"],
    "max_tokens": 7,
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "seed": 7,
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 3,
    "reasoning_effort": "none",
    "top_k": 5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "stop_token_ids": [5],
    "deadline_ms": 500,
    "cache_salt": "x",
    "sampling_defaults": "model",
    "continue_final_message": True,
    "truncate_history": True,
    "enable_thinking": True,
    "max_thinking_tokens": 5,
    "chat_template_kwargs": {"enable_thinking": True},
    "logit_bias": {"5": 3},
    "n": 2,
}
#: what a field needs beside it
BESIDE: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "continue_final_message": {"messages": [*HI, {"role": "assistant", "content": "so"}]},
}
