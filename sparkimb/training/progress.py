"""A progress bar, where rich is installed and somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Seconds between two looks at the loss: each waits for the device.
INTERVAL = 0.5


@contextmanager
def progress_bar(
    title: str, *, done: int, steps: int, shown: bool | None
) -> Iterator[Callable[[Callable[[], str]], None]]:
    """Yield what is called after every step, with a function that says how it goes and is called now and then.

    Parameters
    ----------
    done, steps : int
        Steps that were made already, and all of them.
    shown : bool, optional
        By default where rich is installed and the standard output is a terminal.
    """
    console = None if shown is False else _console(shown)
    if console is None:
        yield lambda said: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    looked = time.monotonic()
    text = TextColumn("{task.description}")
    columns = text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=steps, completed=done)

        def advance(said: Callable[[], str]) -> None:
            nonlocal looked
            bar.advance(task)
            if time.monotonic() - looked >= INTERVAL:
                bar.update(task, description=f"{title}  {said()}")
                looked = time.monotonic()

        yield advance


def _console(shown: bool | None) -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        if shown:
            raise ImportError("The progress bar needs rich: pip install 'sparkimb[jobs]'.") from None
        return None
    console = Console()
    return console if shown or console.is_terminal else None
