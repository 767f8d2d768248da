"""Says what is wrong with an answer that is no prompt. Pure; changes no text, and does not know how one is cleaned."""

from dataclasses import replace

from handler.api.enhance import JudgedBy
from handler.enhancement import scripts
from handler.enhancement.brief import Brief, messages
from handler.enhancement.content import Content, content
from handler.enhancement.echo import echoes
from handler.enhancement.loops import loops
from handler.enhancement.pack import Fault
from handler.enhancement.subject import adds_nothing, is_another, says_the_same
from handler.enhancement.talk import talk
from handler.enhancement.vocabulary import tokens
from handler.enhancement.wrapping import is_wrapped
from handler.pool import check_stop

#: stands for the prompt in messages that are compared with an answer; no message has it
_PROMPT = "\0"
#: marks of a prompt's end that another mark may take the place of where an answer goes on
_ENDS = " \t\n.,;:。，；：、"


def verdict(brief: Brief, answer: str, *, begun: bool = False, by: JudgedBy = "rules") -> Fault | None:
    """The fault of an answer; None where it is a prompt.

    Args:
        answer: the text that would be used: cleaned, not yet repaired or fitted.
        begun: the answer begins with the user's prompt, which the model did not write; only the rest is judged.
        by: with `model`, talk and another subject are not looked for.
    """
    prompt, words = brief.prompt, brief.words
    written = _continuation(answer, prompt) if begun else answer
    check_stop()
    if not tokens(written):
        return "unchanged" if begun else "empty"
    if _echoes(brief, written):
        return "echo"
    said = None if by == "model" else talk(written, prompt, words)
    if said == "refusal":
        return said
    if brief.language is not None and scripts.foreign(answer, prompt, brief.language, words):
        return "language"
    if said is not None or is_wrapped(written, prompt, words):
        return "question"
    translated = brief.translated
    asked, there = content(prompt, words.small), content(written, words.small)
    whole = begun or brief.mode == "rewrite"  # else the answer is only what is to be put behind the prompt
    if whole and not translated and _adds_nothing(brief, written, asked, there, begun):
        return "unchanged"
    if loops(written, prompt):
        return "loop"
    rewritten = brief.mode == "rewrite" and not begun and not translated and by != "model"
    return "off_subject" if rewritten and is_another(written, asked, there) else None


def _continuation(answer: str, prompt: str) -> str:
    return answer.removeprefix(prompt.strip().rstrip(_ENDS))


def _adds_nothing(brief: Brief, text: str, asked: Content, there: Content, begun: bool) -> bool:
    """Whether a text adds nothing. To a prompt that is long enough by itself, another order of its words is enough."""
    if not adds_nothing(text, brief.prompt, asked, there, brief.words.protect.number_words):
        return False
    budget = brief.budget
    if begun or budget is None or not budget.min_tokens or budget.encoder.count(brief.prompt) < budget.min_tokens:
        return True
    return says_the_same(text, brief.prompt)


def _echoes(brief: Brief, text: str) -> bool:
    """Whether a text has a stretch of the messages that the model was asked with."""
    if brief.found is None or not brief.by_pack:
        return False
    asked = messages(replace(brief, prompt=_PROMPT), brief.found)
    parts = [part for message in asked for part in message.content.split(_PROMPT)]
    return echoes(text, parts, brief.prompt)
