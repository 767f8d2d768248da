"""Keeps messages about a checkpoint on one short line, whatever the checkpoint holds. Knows only text."""

#: characters of a name; the longest file name of Linux has as many bytes
LONGEST = 255


def is_printable(name: str) -> bool:
    """True for a name that may stand in a message, a reply and the log: 1 to `LONGEST` printable characters."""
    return 0 < len(name) <= LONGEST and name.isprintable()


def reason(error: BaseException) -> str:
    """The first line of an error's text, printable and cut to `LONGEST` characters; its type where it has no text."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line[:LONGEST])
