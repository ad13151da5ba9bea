"""How a training is shown to people: a bar where there is a terminal, a line an epoch where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from alexq_worker.training.checkpoint import Epoch

T = TypeVar("T")


class Teller:
    """Tells on stderr; a process that is not the first of its group tells nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Tell the person something."""
        self._console.print(Text(f"alexq models: {text}"))

    def count(self, what: str, things: Iterable[T], total: int) -> Iterator[T]:
        """Yield ``things`` while the bar shows how many have been."""
        self._bar.reset(self._task, description=what, total=total)
        for thing in things:
            yield thing
            self._bar.advance(self._task)

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        """Show a step."""
        what = f"epoch {epoch}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.1%}"
        self._bar.update(self._task, description=what, total=steps, completed=step)

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Say what an epoch came to."""
        self._console.print(
            Text(
                f"epoch {done.epoch:>3}/{epochs}  loss {done.loss:.4f}  accuracy {done.accuracy:.1%}  "
                f"held out: loss {done.held_out_loss:.4f}  accuracy {done.held_out_top1:.1%}"
            )
        )
