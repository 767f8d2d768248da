"""An engine's stream as pieces of text, and then the whole of it."""

import asyncio

import pytest

from handler.engine.fold import Completion, Piece, fold, whole
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.errors import DeadlineExceeded


def read(
    texts: list[tuple[str, str]], reason: FinishReason = "stop", *, cut: bool | None = None
) -> list[Piece | Completion]:
    """What a stream of (reasoning, answer) becomes, where each is read before the next one comes."""

    async def gather() -> list[Piece | Completion]:
        stream = Stream(lambda: None)
        loop = asyncio.get_running_loop()
        for number, (reasoning, text) in enumerate(texts, 1):
            loop.call_later(number / 1000, stream.put, Delta(text, (1,), (), reasoning))
        finish = Finish(reason, Usage(3, 0, len(texts)), Timing(0, None, 0), cut)
        loop.call_later((len(texts) + 1) / 1000, stream.put, finish)
        return [event async for event in fold(stream)]

    return asyncio.run(gather())


def test_thoughts_and_answer_come_as_pieces_and_nothing_comes_as_none() -> None:
    *parts, answer = read([("", ""), ("hm", ""), (" so", "yes")], cut=False)
    assert parts == [Piece("hm", reasoning=True), Piece(" so", reasoning=True), Piece("yes")]
    assert isinstance(answer, Completion)
    assert (answer.reasoning, answer.text) == ("hm so", "yes")


@pytest.mark.parametrize(("cut", "reasoning"), [(None, None), (False, ""), (True, "")])
def test_no_thought_is_told_apart_from_none_that_was_looked_for(cut: bool | None, reasoning: str | None) -> None:
    *_, answer = read([("", "yes")], cut=cut)
    assert isinstance(answer, Completion)
    assert (answer.reasoning, answer.text) == (reasoning, "yes")


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
