"""The command line. Imports of ray, torch and the steps happen inside the commands: `tamis --help` loads neither.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 the answer is no: a plan that the pool refuses, text that calls for
a new model (`drift --fail-on-drift`). An error is one or two lines on standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from catalog.errors import TamisError
from clusters.commands import deduplicating, keeping, looking, making, models

REPEATABLE = ("--pool", "--target", "--add", "--feedback")
INTERRUPTED = 130  # the exit status that typer gives to Ctrl-C

app = typer.Typer(
    name="tamis",
    help="From a large generic corpus and a little text of a specialty to the best small language model for it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="With --debug, at any place, an error shows its traceback.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from catalog.run import code_version

        typer.echo(f"tamis {code_version()}")
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What stands before a command."""


for group in (making, deduplicating, looking, models, keeping):
    app.add_typer(group.app)


def main() -> None:
    """Entry point: turn our own errors into one line and an exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve those that work
    debug = "--debug" in sys.argv
    arguments = one_value_each([argument for argument in sys.argv[1:] if argument != "--debug"])
    try:
        app(args=arguments, prog_name="tamis")
    except TamisError as error:
        if debug:
            raise
        sys.stderr.write(f"tamis: {error}\n")
        sys.exit(error.exit_status)
    except OSError as error:  # a folder that can't be made, a file that may not be written
        if debug or error.filename is None:
            raise
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in the way, expected a folder" if in_the_way else error.strerror
        sys.stderr.write(f"tamis: {error.filename}: {reason}\n")
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stderr.write("tamis: interrupted; the same command continues where it stopped\n")
        raise


def one_value_each(arguments: list[str]) -> list[str]:
    """`--pool A B` as `--pool A --pool B`: a shell expands globs and braces into several values after one option."""
    out: list[str] = []
    option = ""
    for argument in arguments:
        if option and out[-1] != option and not argument.startswith("-"):
            out.append(option)
        elif argument.startswith("-"):
            option = argument if argument in REPEATABLE else ""
        out.append(argument)
    return out


if __name__ == "__main__":
    main()
