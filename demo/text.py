"""`Writer` writes the chats that the demo model learns from, and the prompts that test it. Knows no model.

The enhancement of a prompt is the prompt itself, followed by clauses that fit its subject and its time of day.
"""

import random
import re

from demo.words import (
    ADJECTIVES,
    CHAT_SYSTEMS,
    ECHO_SYSTEMS,
    ENHANCE_SYSTEMS,
    FALLBACK,
    FOREIGN_LETTERS,
    HELD_OUT,
    HELD_OUT_SHAPES,
    IMAGE_CLAUSES,
    IMAGE_ENDING,
    IMAGE_RULES,
    IMAGE_TARGETS,
    LIGHT,
    MARKS,
    PUNCTUATION,
    QUESTIONS,
    REQUESTS,
    RULES,
    SMALL_TALK,
    SMALL_WORDS,
    STYLES,
    SUBJECTS,
    SYLLABLE_ENDS,
    SYLLABLE_STARTS,
    SYLLABLE_VOWELS,
    VIDEO_CLAUSES,
    VIDEO_ENDING,
    VIDEO_RULES,
    VIDEO_TARGETS,
    WORD,
    WORD_ENDINGS,
    WRAPPERS,
)

Message = dict[str, str]
Chat = list[Message]


class Writer:
    """Writes chats. It has one source of random numbers, so that one seed gives one training text.

    Args:
        subwords: entries of the vocabulary, from which some of the made-up words are composed.
    """

    def __init__(self, seed: int, subwords: list[str]) -> None:
        self.rng = random.Random(seed)
        self.subwords = subwords
        self.held_out = held_out_words()

    def plain_prompt(self) -> str:
        """A prompt from the grammar, as a person may write one."""
        r = self.rng
        subjects, actions, places = SUBJECTS[r.choice(list(SUBJECTS))]
        adjectives = r.sample(ADJECTIVES, r.choice([0, 0, 1, 1, 2]))
        parts = [r.choice(["a", "a", "the", "one", "A", ""]), *adjectives, r.choice(subjects)]
        parts += [r.choice(actions)] if r.random() < 0.6 else []
        parts += [r.choice(places)] if r.random() < 0.6 else []
        parts += [r.choice(list(LIGHT))] if r.random() < 0.4 else []
        prompt = " ".join(part for part in parts if part)
        return r.choice(STYLES).format(prompt) if r.random() < 0.25 else prompt

    def made_up_word(self) -> str:
        """A word of syllables, of letters or of subwords, in any case, sometimes with punctuation around it."""
        r, kind = self.rng, self.rng.random()
        if kind < 0.45:
            parts = (SYLLABLE_STARTS, SYLLABLE_VOWELS, SYLLABLE_ENDS)
            word = "".join(r.choice(part) for _ in range(r.choice([1, 1, 2, 2, 3])) for part in parts)
            word += r.choice(WORD_ENDINGS) if r.random() < 0.4 else ""
        elif kind < 0.78:
            word = "".join(r.choices(self.subwords, k=r.choice([1, 2, 2, 3, 3, 4])))
        elif kind < 0.86:
            word = "".join(r.choices("abcdefghijklmnopqrstuvwxyz", k=r.randint(1, 9)))
        elif kind < 0.95:
            word = "".join(r.choices("0123456789", k=r.randint(1, 4))) + r.choice(["", "", "s", "mm", "k", "th"])
        else:
            letters = r.choice(FOREIGN_LETTERS)
            word = "".join(
                chr(r.randint(*letters)) if r.random() < 0.7 else r.choice("aeinrst") for _ in range(r.randint(1, 5))
            )
        if (case := r.random()) < 0.25:
            word = word.upper() if case < 0.03 else word[:1].upper() + word[1:]
        if word.lower() in self.held_out:
            return self.made_up_word()
        return (
            r.choice(MARKS).replace("{}", word, 1).replace("{}", r.choice(self.subwords)) if r.random() < 0.1 else word
        )

    def odd_prompt(self, most_words: int) -> str:
        """Mostly made-up words, which a model can only repeat by copying."""
        r = self.rng
        count = min(r.randint(1, most_words), r.randint(1, most_words))
        words = [r.choice(SMALL_WORDS) if r.random() < 0.25 else self.made_up_word() for _ in range(count)]
        if r.random() < 0.1:  # a few words many times: only their order shows the place
            words = r.choices(words[:4], k=count)
        marks = r.choice([0.0, 0.0, 0.1, 0.3, 0.6])
        return " ".join(word + (r.choice(PUNCTUATION) if r.random() < marks else "") for word in words)

    def mixed_prompt(self) -> str:
        """A prompt from the grammar in which some words were never seen before."""
        words = self.plain_prompt().split()
        mixed = " ".join(self.made_up_word() if self.rng.random() < 0.4 else word for word in words)
        return mixed if self.rng.random() < 0.7 else f"{mixed}, {self.mixed_prompt()}"

    def held_out_prompt(self) -> str:
        """A prompt for the test: of real words that training never saw."""
        shape = self.rng.choice(HELD_OUT_SHAPES)
        return re.sub(r"\{(.)\}", lambda slot: self.rng.choice(HELD_OUT[slot[1]]), shape)

    def prompt(self) -> str:
        kind = self.rng.random()
        if kind < 0.45:
            return self.odd_prompt(25)
        prompt = self.mixed_prompt() if kind < 0.75 else self.plain_prompt()
        return prompt if self.rng.random() < 0.85 else prompt[0].upper() + prompt[1:] + self.rng.choice(".!?")

    # --- chats -----------------------------------------------------------------------------------------------

    def enhance_system(self, targets: list[str], templates: list[str]) -> str:
        """A caller's system prompt: one line that names the target, with up to a page of rules."""
        r = self.rng
        rules = RULES + (IMAGE_RULES if targets is IMAGE_TARGETS else VIDEO_RULES)
        lines = r.sample(rules, r.choice([0, 0, 0, 1, 2, 3, 5, 8]))
        if r.random() < 0.08:
            lines.append(self.odd_prompt(25))
        if r.random() < 0.08:
            example = self.plain_prompt()
            lines.append(f"Example: {example} -> {enhanced(example, targets is VIDEO_TARGETS)}")
        return r.choice([" ", " ", "\n", "\n- "]).join([r.choice(templates).format(r.choice(targets)), *lines])

    def enhance_chat(self, turns: int = 1) -> Chat:
        """Prompts to rewrite. The system prompt asks for it or, sometimes, only the user does."""
        r, video = self.rng, self.rng.random() < 0.5
        targets = VIDEO_TARGETS if video else IMAGE_TARGETS
        by_user = r.random() < 0.1
        chat = self.chat_system() if by_user else [message("system", self.enhance_system(targets, ENHANCE_SYSTEMS))]
        for _ in range(turns):
            asked = r.choice(WRAPPERS) if r.random() < 0.15 else "{}"
            if by_user:
                asked = r.choice(REQUESTS).replace("{t}", r.choice(targets))
            prompt = self.prompt()
            chat += [message("user", asked.replace("{}", prompt)), message("assistant", enhanced(prompt, video))]
        return chat

    def echo_chat(self, most_words: int = 25) -> Chat:
        """A prompt to repeat."""
        system, prompt = self.rng.choice(ECHO_SYSTEMS), self.odd_prompt(most_words)
        return [message("system", system), message("user", prompt), message("assistant", prompt)]

    def chat_system(self) -> Chat:
        """A system prompt that asks for nothing in particular, or none."""
        if self.rng.random() < 0.15:
            return []
        return [message("system", self.rng.choice(CHAT_SYSTEMS))]

    def small_talk(self, turns: int = 1) -> Chat:
        chat = self.chat_system()
        for _ in range(turns):
            if self.rng.random() < 0.6:
                said, answer = self.rng.choice(SMALL_TALK)
                chat += [message("user", self.rng.choice(said)), message("assistant", answer)]
            else:
                topic = self.plain_prompt() if self.rng.random() < 0.5 else self.odd_prompt(8)
                question = self.rng.choice(QUESTIONS).replace("{}", topic)
                chat += [message("user", question), message("assistant", FALLBACK)]
        return chat

    def chat(self) -> Chat:
        kind, turns = self.rng.random(), self.rng.choice([1] * 8 + [2, 3])
        if kind < 0.15:
            return self.echo_chat()
        return self.small_talk(turns) if kind < 0.28 else self.enhance_chat(turns)


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def held_out_words() -> set[str]:
    return {word.lower() for held_out in HELD_OUT.values() for word in held_out}


def enhanced(prompt: str, video: bool) -> str:
    """The prompt, followed by clauses. The prompt alone decides which ones, so that they can be learned."""
    words = WORD.findall(prompt)
    classes = [name for word in words for name, (subjects, _, _) in SUBJECTS.items() if word in subjects]
    pool = (VIDEO_CLAUSES if video else IMAGE_CLAUSES)[classes[0] if classes else ""]
    light = LIGHT[next((time for time in LIGHT if time and time in prompt), "")]
    pick = ord(prompt[-1])
    clauses = [pool[pick % len(pool)], light[pick % len(light)], VIDEO_ENDING if video else IMAGE_ENDING]
    return prompt + (" " if prompt[-1] in ".!?,;:" else ", ") + ", ".join(clauses)
