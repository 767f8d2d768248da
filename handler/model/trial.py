"""Renders a checkpoint's chat template for the first time, in a process of its own and within limits.

A template is a program: it may loop for ever or ask for any memory, in one call that no thread can interrupt. The start
goes on meanwhile; `python -m handler.model.trial DIRECTORY` is that process. The start's part imports no large library.
"""

import resource
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from handler.errors import StartError

if TYPE_CHECKING:
    from handler.model.tokenizer import ChatTokenizer

#: processor seconds that rendering may take; Qwen's templates take a hundredth of a second
SECONDS = 3
#: bytes of memory, those of the interpreter and its libraries included
BYTES = 2**30
#: seconds for the whole process, on a machine that is busy
PATIENCE_S = 120.0
ADVICE = "use the template of a Qwen2, 2.5 or 3 instruct model"
ROLES = (("user",), ("system", "user"), ("user", "assistant"), ("system", "user", "assistant", "user"))


class Trial:
    """The process that renders the template of the checkpoint in a directory; starts at once."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "handler.model.trial", str(directory.resolve())],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait(self, name: str) -> None:
        """Wait until the template is rendered; `name` is the operator's name of the model.

        Raises:
            StartError: it cannot be rendered within the limits.
        """
        try:
            failure, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        if self._process.returncode < 0:  # a signal: that of the limit, or ours
            raise StartError(
                f"{name}: the chat template takes longer than {SECONDS} s to render four short messages; {ADVICE}"
            )
        if self._process.returncode:
            raise StartError(f"{name}: the chat template fails ({failure.strip() or 'no reason given'}); {ADVICE}")


def render(template: "ChatTokenizer") -> None:
    """Render conversations of each form that a start and an ordinary chat render; raises what the template raises."""
    import jinja2

    for roles, answer, thinks in product(ROLES, (True, False), (True, False)):
        messages = [{"role": role, "content": "Hello"} for role in roles]
        # A template that refuses these roles, or all of them: the worker's own rendering says so.
        with suppress(jinja2.TemplateError):
            template.render(messages, add_generation_prompt=answer, enable_thinking=thinks)


def main(directory: Path) -> int:
    """Returns the exit status; where it is not 0, the reason is on standard output."""
    from handler.model.tokenizer import read_chat_template

    try:
        template = read_chat_template(directory)
    except Exception:
        return 0  # the worker reads the same files, and its message has the reason
    used = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    try:
        render(template)
    except Exception as error:
        sys.stdout.write(type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
