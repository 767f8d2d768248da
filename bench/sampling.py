"""What drawing a token costs: our sampler beside transformers' processors and bare argmax, by batch size and option.

    python -m bench.sampling [--gpu] [--rows 1,8,32,128] [--save]

One run, medians. transformers' side is what `generate` runs on one batch: its processors for the same options in its
own order, then softmax and multinomial; it knows no seeds, no presence and no frequency penalty.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bench.harness import Bench
from handler.engine.sampling import Sampling
from handler.inference.sampler import Sampler

#: Qwen2.5-7B: rows of the embedding, and the ids that have a token
VOCAB, TOKENS = 152_064, 151_665
PROMPT = 500
OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.7": {"temperature": 0.7},
    "temperature + top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature + top_k 20": {"temperature": 0.7, "top_k": 20},
    "temperature + min_p 0.05": {"temperature": 0.7, "min_p": 0.05},
    "repetition 1.1, greedy": {"temperature": 0.0, "repetition_penalty": 1.1},
    "all": {
        "temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01,
        "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1,
    },
}  # fmt: skip


def logits_of(rows: int, kind: str, device: str) -> Tensor:
    """bfloat16, as a model's head gives them: `peaked` like a trained model's, `flat` like noise."""
    logits = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    if kind == "peaked":
        logits[:, :300] += 8 + 3 * torch.randn(rows, 300, generator=torch.Generator().manual_seed(1))
    return logits.bfloat16().to(device)


def ours(options: dict[str, float], logits: Tensor) -> Callable[[], object]:
    rows = len(logits)
    sampler = Sampler(rows, VOCAB, TOKENS, logits.device)
    neutral = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    penalties = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    for row in range(rows):
        fields = {"max_tokens": 1, "seed": row, "stop": (), **neutral, **penalties, **options}
        sampler.assign(row, Sampling(**fields), range(1000, 1000 + PROMPT))  # type: ignore[arg-type]
    at, positions = torch.arange(rows, device=logits.device), torch.full((rows,), PROMPT, device=logits.device)

    def draw() -> Tensor:
        return sampler.sample(logits, at, positions)

    return captured(draw) if sampler.capturable else draw


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """As the engine runs it: out of a CUDA graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def theirs(options: dict[str, float], logits: Tensor) -> Callable[[], object]:
    processors, ids = LogitsProcessorList(), torch.arange(1000, 1000 + PROMPT, device=logits.device)
    ids = ids.expand(len(logits), -1)
    if "repetition_penalty" in options:
        processors.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if options["temperature"]:
        processors.append(TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        processors.append(TopKLogitsWarper(int(options["top_k"])))
    if "top_p" in options:
        processors.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        processors.append(MinPLogitsWarper(options["min_p"]))

    def draw() -> Tensor:
        scores = processors(ids, logits.float())  # type: ignore[arg-type]
        return torch.multinomial(scores.softmax(-1), 1) if options["temperature"] else scores.argmax(-1)

    return draw


def median_ms(run: Callable[[], object], cuda: bool, seconds: float) -> float:
    """Median of as many runs as fit, 3 at least."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rows", default="1,8,32,128")
    parser.add_argument("--seconds", type=float, default=0.5, help="spent on each figure")
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args(arguments)
    device, cuda = ("cuda", True) if chosen.gpu else ("cpu", False)
    bench = Bench("sampling", device=device)
    table = bench.table(
        f"Milliseconds a step, vocabulary {VOCAB}, bfloat16 logits",
        ["options", "logits", "rows", "ours", "generate", "argmax", "generate : ours"],
        labels=3,
        ratio="generate : ours",
    )
    with torch.inference_mode():
        for kind in ("peaked", "flat"):
            for rows in map(int, chosen.rows.split(",")):
                logits = logits_of(rows, kind, device)
                bare = median_ms(lambda logits=logits: logits.argmax(-1), cuda, chosen.seconds)  # type: ignore[misc]
                for name, options in OPTIONS.items():
                    mine, other = (median_ms(side(options, logits), cuda, chosen.seconds) for side in (ours, theirs))
                    table.add(name, kind, rows, mine, other, bare, other / mine)
    bench.finish(chosen.save)


if __name__ == "__main__":
    main()
