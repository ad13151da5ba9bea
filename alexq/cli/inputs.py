"""What ``alexq submit`` is given: files, folders, patterns, names on standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from alexq_schema.errors import UsageError


def expand(arguments: Iterable[str], stdin: TextIO | None) -> Iterator[str]:
    """Yield the paths that the arguments stand for; one that stands for nothing is yielded as it is.

    A folder stands for every file below it whose name and folders do not begin with a dot.

    Raises:
        UsageError: an argument is empty, or names are to come from a standard input that is closed.
    """
    for argument in arguments:
        if argument == "-":
            yield from expand(_names(stdin), None)
        elif not argument:
            raise UsageError("an empty PATH: is a variable not set? Name files or folders; . is this one")
        elif "\0" in argument:
            yield argument  # no file has such a name: refused by name, as any other
        elif Path(argument).is_dir():
            yield from _files_below(Path(argument))
        elif not Path(argument).exists() and glob.has_magic(argument):
            yield from sorted(glob.glob(argument, recursive=True)) or [argument]  # noqa: PTH207 - as typed
        else:
            yield argument


def _names(stdin: TextIO | None) -> Iterator[str]:
    if stdin is None:
        raise UsageError("- takes file names from standard input, which is closed or was read already")
    return filter(None, (line.rstrip("\r\n") for line in stdin))


def _files_below(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not is_hidden:
            yield str(path)


def names_from_stdin() -> TextIO | None:
    """Return standard input, ready for names that are no UTF-8."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names are bytes
    return sys.stdin
