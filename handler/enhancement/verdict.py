"""Says what is wrong with an answer that is no prompt. Pure; changes no text."""

from handler.enhancement.brief import Brief
from handler.enhancement.clean import is_refusal
from handler.enhancement.pack import Fault
from handler.enhancement.scripts import foreign
from handler.enhancement.vocabulary import tokens


def verdict(brief: Brief, answer: str) -> Fault | None:
    """The fault of an answer, None where it is a prompt.

    `answer`: the whole text, cleaned; in mode extend with the user's prompt, `Brief.head`, before what the model wrote.
    """
    written = answer.removeprefix(brief.head) if brief.mode == "extend" else answer
    if not tokens(written):
        return "unchanged" if brief.mode == "extend" else "empty"
    if is_refusal(written, brief.prompt, brief.words):
        return "refusal"
    if brief.language is not None and foreign(answer, brief.prompt, brief.language):
        return "language"
    return None
