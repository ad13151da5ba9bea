"""The ``alexq`` command. Modules behind a command are imported when it runs, so that help is quick."""

from alexq.cli.main import main

__all__ = ["main"]
