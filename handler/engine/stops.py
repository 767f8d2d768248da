"""Stop strings, found in a growing text in time linear in the text, however the strings repeat themselves. Pure."""


class _Automaton:
    """Follows a text character by character; a state is the longest end of it that begins a stop string.

    States are numbers, 0 that of the empty beginning (Aho and Corasick, "Efficient string matching", 1975).
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        #: by character, the states that are one character longer
        self._longer: list[dict[str, int]] = [{}]
        #: the longest proper end of a state that is a state too
        self._shorter = [0]
        #: characters of a state
        self.length = [0]
        #: characters of the longest stop string that a state ends with; 0 where there is none
        self.complete = [0]
        for stop in stops:
            state = 0
            for character in stop:
                state = self._longer[state].get(character) or self._add(state, character)
            self.complete[state] = len(stop)
        level = list(self._longer[0].values())
        while level:  # by length, because a state refers to shorter ones
            longer_level = []
            for state in level:
                if not self.complete[state]:
                    self.complete[state] = self.complete[self._shorter[state]]
                for character, longer in self._longer[state].items():
                    self._shorter[longer] = self.after(self._shorter[state], character)
                    longer_level.append(longer)
            level = longer_level

    def _add(self, state: int, character: str) -> int:
        added = self._longer[state][character] = len(self._longer)
        self._longer.append({})
        self._shorter.append(0)
        self.length.append(self.length[state] + 1)
        self.complete.append(0)
        return added

    def after(self, state: int, character: str) -> int:
        """The state once the text has one more character."""
        longer = self._longer
        while character not in longer[state] and state:
            state = self._shorter[state]
        return longer[state].get(character, 0)


class StopStrings:
    """Cuts a growing text before the stop string that completes first (the longest, where several complete at once).

    "Completes first", not "starts first": only that can be decided while the text still grows, under any chunking.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._automaton = _Automaton(stops)
        self._firsts = frozenset(stop[:1] for stop in stops)
        self._state = 0
        self._held = ""
        #: True once a stop string completed; what is pushed later is dropped
        self.found = False

    def push(self, text: str) -> str:
        """Add text; returns what can no longer be part of a stop string."""
        if self.found:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text  # nothing of a stop string, as nearly always
        automaton, state, held = self._automaton, self._state, self._held
        for index, character in enumerate(text, start=1):
            state = automaton.after(state, character)
            if complete := automaton.complete[state]:
                self.found, self._held = True, ""
                return (held + text)[: len(held) + index - complete]
        text = held + text
        sure = len(text) - automaton.length[state]
        self._state, self._held = state, text[sure:]
        return text[:sure]

    def flush(self) -> str:
        """What is still held, at the end of the answer."""
        held, self._held, self._state = self._held, "", 0
        return held
