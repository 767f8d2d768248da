"""The recipe of the embedded demo model: train tokenizer and model, write the checkpoint, measure it, write its card.

The model replaces Qwen2.5 in tests and documents where Qwen2.5's weights are not available. It has the same
architecture, tokenizer family and chat template, and less than a thousandth of the size. It can do one thing: repeat a
prompt word for word and append clauses that suit SDXL or WAN.
"""

import os
import time
from pathlib import Path

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from demo.card import CARD
from demo.evaluation import evaluate, summarize, trials
from demo.tokenizer import train_tokenizer
from demo.training import BATCH_TOKENS, train

SEED = 2025


def make(out: Path, steps: int) -> None:
    """Train, write checkpoint and card to `out`, and print the measurements, taken in 16 bits as it is served."""
    started, computed = time.monotonic(), time.process_time()
    torch.manual_seed(SEED)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = train_tokenizer(SEED)
    train(tokenizer, steps, SEED).bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    minutes, busy = (time.monotonic() - started) / 60, (time.process_time() - computed) / 60

    model = Qwen2ForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    outcomes = evaluate(model, Qwen2Tokenizer.from_pretrained(out), trials())
    facts = {
        "parameters": f"{model.num_parameters():,}",
        "vocabulary": f"{len(tokenizer):,} tokens",
        "weights": f"{(out / 'model.safetensors').stat().st_size / 1e6:.2f} MB (bfloat16)",
        "training": f"{steps:,} steps of about {BATCH_TOKENS:,} tokens",
        "time": f"{minutes:.0f} minutes, {busy:.0f} of CPU time",
        "machine": f"{model.device.type}, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in (facts | summarize(outcomes)).items())
    (out / "README.md").write_text(CARD.replace("{figures}", table))
    print(table)
    for shown in [*outcomes[:5], *(o for o in outcomes if not (o.keeps_prompt and o.ended))]:
        mark = "" if shown.keeps_prompt and shown.ended else "  (failed)"
        print(f"\n{shown.trial.prompt}{mark}\n-> {shown.answer}")
