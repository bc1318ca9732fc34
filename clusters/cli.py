"""The command line. Imports of ray, torch and the steps happen inside the commands: `tamis --help` loads neither.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 the answer is no: a plan that the pool refuses, text that calls for a
new model (`drift --fail-on-drift`), too little text to judge one by (`refresh`). An error is one or two lines on
standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from catalog.errors import NO_ROOM, TamisError
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
    """Entry point: turn errors into one line and an exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve those that work
    debug = "--debug" in sys.argv
    arguments = one_value_each([argument for argument in sys.argv[1:] if argument != "--debug"])
    try:
        status = app(args=arguments, prog_name="tamis", standalone_mode=False)
    except TamisError as error:
        if debug:
            raise
        sys.stderr.write(f"tamis: {error}\n")
        sys.exit(error.exit_status)
    except TyperException as error:  # the command line itself
        if not arguments:
            sys.stderr.write(f"{error.format_message()}\n")  # the help text
        else:
            sys.stderr.write(f"tamis: {usage_problem(error)}\n")
        sys.exit(error.exit_code)
    except OSError as error:  # a folder that can't be made, a disk that is full, a Ray that does not answer
        told = system_problem(error)
        if debug or not told:
            raise
        sys.stderr.write(f"tamis: {told}\n")
        sys.exit(1)
    if status == INTERRUPTED:
        sys.stderr.write("tamis: interrupted; the same command continues where it stopped\n")
    sys.exit(status)


def usage_problem(error: TyperException) -> str:
    """What is wrong with a command line: what was given, what was expected, and which help text to read."""
    message = " ".join(error.format_message().split()).rstrip(".")
    errors = getattr(error.__cause__, "errors", None)  # of pydantic, which does not say what it was given
    given = f", given {errors()[0]['input']!r}" if errors else ""
    context = getattr(error, "ctx", None)
    return f"{message}{given}; see `{context.command_path if context else 'tamis'} --help`"


def system_problem(error: OSError) -> str:
    """What stood in the way, in one line; empty where the error does not say what."""
    address = os.environ.get("RAY_ADDRESS")
    if isinstance(error, ConnectionError) and address:
        return f"RAY_ADDRESS is {address}: no Ray answers there; start one (`ray start --head`) or unset the variable"
    if error.errno in NO_ROOM:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free space and run the same command again"
    if error.filename is None:
        return ""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename}: a file is in the way, expected a folder"
    return f"{error.filename}: {error.strerror}"


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
