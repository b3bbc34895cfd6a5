"""The Typer application, and the one place that turns errors into a message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

import imageprocessor
from imageprocessor.cli.commands import (
    database,
    html,
    images,
    jobs,
    operations,
    service,
    storage,
    webhooks,
)
from imageprocessor.cli.output import print_error
from imageprocessor.errors import ImageProcessorError, MissingExtraError, SettingsError

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
images.register(app)
service.register(app)
jobs.register(app)
html.register(app)
webhooks.register(app)
database.register(app)
storage.register(app)
operations.register(app)


def print_version(asked: bool) -> None:
    """Print the version and exit, if *asked*."""
    if asked:
        typer.echo(imageprocessor.__version__)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version and exit.", is_eager=True, callback=print_version
    ),
]


@app.callback()
def describe(version: Version = False) -> None:
    """Turn untrusted uploads into clean, upright, metadata-free web images.

    Process files on this machine, or run a service that accepts uploads.

    Results go to stdout, everything else to stderr.
    Exit codes: 0 success, 1 failure, 2 wrong usage or settings, 130 interrupted.
    """


def run() -> NoReturn:
    """Run the command named in the arguments, then exit."""
    try:
        status = app(prog_name="imageprocessor")
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SettingsError as error:
        status = _fail(str(error), WRONG_USAGE)
    except ImageProcessorError as error:
        status = _fail(str(error), FAILED)
    except ModuleNotFoundError as error:
        package = (error.name or "imageprocessor").partition(".")[0]
        if package == "imageprocessor":
            raise
        # The `server` extra contains everything that any command needs.
        missing = MissingExtraError(f"This command (it uses {error.name})", "server")
        status = _fail(str(missing), FAILED)
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        status = _fail(f"{error.strerror or error}{where}", FAILED)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    print_error(message)
    return status
