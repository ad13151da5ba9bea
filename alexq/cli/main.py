"""The command's frame: the typer app, and how an error becomes one line and an exit code."""

import errno
import os
import sys
from pathlib import Path

import typer

from alexq.cli import doctor, gateway, jobs, models, secret_files, stack, webhooks
from alexq_schema.errors import (
    AlexqError,
    ForbiddenError,
    MigrationError,
    SettingsError,
    StackError,
    StackRunningError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UsageError,
)

EXIT_CODES: tuple[tuple[type[AlexqError], int], ...] = (
    (UsageError, 2),
    (SettingsError, 2),
    (StackRunningError, 4),
    (UnauthenticatedError, 4),
    (ForbiddenError, 4),
    (UnavailableError, 3),
    (ThrottledError, 3),
    (MigrationError, 3),
    (StackError, 3),
    (AlexqError, 1),
)
"""The first class that fits decides. 0 done, 1 did not succeed, 2 usage, 3 no service, 4 not allowed."""

INTERRUPTED = 130
"""What shells give a command that Ctrl-C ended."""

app = typer.Typer(
    name="alexq",
    help="Classify images at scale with AlexNet: submit photographs, get labels, lose nothing.",
    epilog="Exit codes: 0 done, 1 some job did not succeed, 2 usage, 3 no service reached, 4 not allowed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stack.register(app)
jobs.register(app)
gateway.register(app)
webhooks.register(app)
models.register(app)
secret_files.register(app)
doctor.register(app)


def exit_code(error: AlexqError) -> int:
    """Return the exit code for an error that ended a command."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def main() -> int:
    """Run the command line; return the exit code. No traceback for an error of ours."""
    if sys.stdout is None:  # closed by the caller: nobody wants the answer
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
    try:
        app(prog_name="alexq")
        sys.stdout.flush()
    except AlexqError as error:
        _say(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        _say(AlexqError(f"cannot write the results: {error.strerror}; the jobs themselves go on"))
        os._exit(1)  # what is buffered cannot be written either
    return 0


def _say(error: AlexqError) -> None:
    from rich.console import Console
    from rich.text import Text

    line = " ".join(f"error [{error.code}]: {error.detail}".split())
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(line, style="red"))


if __name__ == "__main__":
    sys.exit(main())
