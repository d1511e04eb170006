"""What a person sees while an environment is made: minutes, the first time. `app` or a command opens `console`.

A line of progress that begins with a space is a detail of the phase before it (what pip or uv just said).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO

Progress = Callable[[str], None]
"""Called with one line, from the thread that makes the environment."""


def ignore(line: str) -> None:
    """Progress that nobody follows."""


@contextlib.contextmanager
def console(stream: TextIO) -> Iterator[Progress]:
    """Progress on a stream: on a terminal one line that moves and a line for each phase that ended; else, in a pipe or
    a file, a line for each phase.
    """
    from rich.console import Console  # a third of a terminal program's start, for the few starts that build
    from rich.text import Text

    rich = Console(file=stream, highlight=False)
    if not rich.is_terminal:

        def write(line: str) -> None:
            if not line.startswith(" "):
                stream.write(line + "\n")
                stream.flush()

        yield write
        return
    with contextlib.ExitStack() as stack:
        status = rich.status("")
        started = False
        phase = ""

        def show(line: str) -> None:
            nonlocal started, phase
            if not started:
                started = True
                stack.enter_context(status)
            if not line.startswith(" "):
                if phase:
                    rich.print(Text(phase, style="dim"))
                phase = line
            detail = Text(f"  {line.strip()[:60]}", style="dim") if line.startswith(" ") else Text("")
            status.update(Text(phase).append(detail))

        yield show
        if phase:
            rich.print(Text(phase, style="dim"))
