"""The worker that a cold start is compared with: transformers and the SDK as their own documents use them.

MODEL_PATH names the checkpoint; a job is `{"input": {"messages": […], "max_tokens": 1}}`.
"""

import os
from typing import Any

import runpod
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path = os.environ["MODEL_PATH"]
tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
model: Any = AutoModelForCausalLM.from_pretrained(
    path, local_files_only=True, dtype="auto", device_map="cuda" if torch.cuda.is_available() else "cpu"
)


def handler(job: dict[str, Any]) -> dict[str, Any]:
    """Answer one job."""
    asked = job["input"]
    inputs = tokenizer.apply_chat_template(
        asked["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=asked["max_tokens"], do_sample=False)
    return {"response": tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
