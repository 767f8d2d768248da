"""An engine's stream as pieces of text, and then the whole of it."""

import asyncio

import pytest

from handler.engine.fold import Completion, Piece, fold, whole
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.engine.thinking import Thinking
from handler.errors import DeadlineExceeded


def read(texts: list[str], thinking: Thinking | None = None, reason: FinishReason = "stop") -> list[Piece | Completion]:
    """What a stream becomes, where each text is read before the next one comes."""

    async def gather() -> list[Piece | Completion]:
        stream = Stream(lambda: None)
        loop = asyncio.get_running_loop()
        for number, text in enumerate(texts, 1):
            loop.call_later(number / 1000, stream.put, Delta(text, (1,)))
        finish = Finish(reason, Usage(3, 0, len(texts)), Timing(0, None, 0))
        loop.call_later((len(texts) + 1) / 1000, stream.put, finish)
        return [event async for event in fold(stream, thinking)]

    return asyncio.run(gather())


def test_thoughts_and_answer_come_as_pieces_and_nothing_comes_as_none() -> None:
    *parts, answer = read(["<think>", "hm", "</thi", "nk>\n", "yes"], Thinking(opened=False))
    assert parts == [Piece("hm", reasoning=True), Piece("yes")]
    assert isinstance(answer, Completion)
    assert (answer.reasoning, answer.text) == ("hm", "yes")


@pytest.mark.parametrize(("held", "opened"), [("<thi", False), ("</thi", True)])
def test_what_is_held_back_at_the_end_is_not_lost(held: str, opened: bool) -> None:
    piece, answer = read([held], Thinking(opened))
    assert piece == Piece(held, reasoning=opened)
    assert isinstance(answer, Completion)
    assert (answer.reasoning, answer.text) == ((held, "") if opened else ("", held))


def test_a_deadline_before_the_first_token_is_an_error_and_an_answer_without_one_is_not() -> None:
    with pytest.raises(DeadlineExceeded):
        read([], reason="deadline")
    (answer,) = read([])
    assert isinstance(answer, Completion)
    assert (answer.text, answer.reasoning) == ("", None)


def test_the_whole_is_the_completion_of_the_fold_and_its_tokens_are_all_there() -> None:
    async def work() -> Completion:
        stream = Stream(lambda: None)
        for token, text in enumerate(["a", "b"]):
            stream.put(Delta(text, (token,), (Logprob(-1.0, ()),)))
        stream.put(Finish("stop", Usage(3, 0, 2), Timing(0, None, 0)))
        return await whole(stream)

    completion = asyncio.run(work())
    assert (completion.text, completion.token_ids, len(completion.logprobs)) == ("ab", (0, 1), 2)
    assert completion.finish.reason == "stop"
