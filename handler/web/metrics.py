"""The worker's counters as Prometheus reads them: text exposition format 0.0.4. Written by hand: it is a few lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from handler.engine.histogram import Histogram
from handler.engine.protocol import Status
from handler.report import Report, State
from handler.web.line import Line

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "qwen_worker_"
Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Looks into the cache of enhancements since the start."""

    hits: int
    misses: int


#: counters of the engine: their name, kind and meaning, by the name that `info` gives them
_ENGINE: dict[str, tuple[str, Kind, str]] = {
    "steps": ("steps_total", "counter", "Steps of the engine."),
    "pages_total": ("kv_pages", "gauge", "Pages of the KV cache."),
    "pages_used": ("kv_pages_used", "gauge", "Pages that running requests hold."),
    "pages_cached": ("kv_pages_cached", "gauge", "Pages whose prefix a later request may share."),
    "preemptions": ("preemptions_total", "counter", "Requests that gave their pages up for others, and began again."),
    "prefix_hit_tokens": ("prefix_cache_hit_tokens_total", "counter", "Prompt tokens that were not computed again."),
    "guessed_tokens": ("guessed_tokens_total", "counter", "Tokens guessed by prompt lookup."),
    "guessed_right": ("guessed_right_tokens_total", "counter", "Guessed tokens that were right."),
    "step_failures": ("step_failures_total", "counter", "Steps that failed."),
    "out_of_memory": ("out_of_memory_total", "counter", "Steps for which the device had too little memory."),
}


def exposition(report: Report, line: Line, status: Status | None, cache: CacheUse | None) -> str:
    """The whole text; `status` and `cache` are None while the model loads."""
    return "".join(_families(report, line, status, cache))


def _families(report: Report, line: Line, status: Status | None, cache: CacheUse | None) -> Iterator[str]:
    states = {f'state="{state}"': int(report.state == state) for state in get_args(State)}
    yield _family("state", "gauge", "1 for the state that the worker is in.", states)
    yield _family("uptime_seconds", "gauge", "Seconds since the process started.", {"": report.uptime_s})
    jobs = {f'outcome="{outcome}"': count for outcome, count in sorted(report.outcomes.items())}
    yield _family("jobs_total", "counter", "Jobs by outcome: ok, degraded, cancelled, or an error's code.", jobs)
    tokens = {f'kind="{kind}"': count for kind, count in report.tokens.items()}
    yield _family("tokens_total", "counter", "Tokens of prompts and of completions.", tokens)
    yield _family("http_requests", "gauge", "Requests that are being answered.", {"": line.running})
    yield _family("http_requests_refused_total", "counter", "Requests turned away with 503.", {"": line.refused})
    if cache is not None:
        looks = {'result="hit"': cache.hits, 'result="miss"': cache.misses}
        yield _family("enhance_cache_looks_total", "counter", "Looks into the cache of enhancements.", looks)
    if status is None:
        return
    yield _family("requests_running", "gauge", "Requests in the engine's batch.", {"": status.running})
    yield _family("requests_waiting", "gauge", "Requests in the engine's queue.", {"": status.waiting})
    yield _family("heartbeat_age_seconds", "gauge", "Since the engine showed life.", {"": status.heartbeat_age_s})
    for name, (metric, kind, meaning) in _ENGINE.items():
        if isinstance(value := status.details.get(name), int):
            yield _family(metric, kind, meaning, {"": value})
    if status.latency is not None:
        first, between = status.latency.first, status.latency.between
        yield _histogram("time_to_first_token_seconds", "From a request's arrival in the engine to its token.", first)
        yield _histogram("inter_token_latency_seconds", "From a request's token to its next one.", between)


def _family(name: str, kind: Kind, meaning: str, samples: dict[str, int] | dict[str, float]) -> str:
    lines = [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
    lines += [f"{PREFIX}{name}{{{labels}}} {value}" if labels else f"{PREFIX}{name} {value}"
              for labels, value in samples.items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def _histogram(name: str, meaning: str, seen: Histogram) -> str:
    name = PREFIX + name
    buckets = [*seen.cumulative()]
    count = max(seen.count, buckets[-1][1])
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{le="{bound:g}"}} {below}' for bound, below in buckets]
    lines += [f'{name}_bucket{{le="+Inf"}} {count}', f"{name}_sum {seen.total_s:.6f}", f"{name}_count {count}"]
    return "\n".join(lines) + "\n"
