"""``serve``, ``worker``, ``sweep``, ``token`` and ``config``, and options that groups share."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from imageprocessor.cli.output import print_json, print_note, print_table
from imageprocessor.collector import collector_paused
from imageprocessor.errors import SettingsError

if TYPE_CHECKING:
    from imageprocessor.settings import Settings

PANEL = "Service"
HOURS_PER_UNIT = {"m": 1 / 60, "h": 1, "d": 24}
HOURS_PER_CENTURY = 24 * 36_525


def parse_lifetime(text: str) -> timedelta:
    """Parse a lifetime such as ``30m``, ``24h`` or ``7d``.

    >>> parse_lifetime("7d")
    datetime.timedelta(days=7)

    Raises:
        typer.BadParameter: *text* has another form, or the time is zero or more than a century.
    """
    match = re.fullmatch(r"(\d{1,9})([mhd])", text)
    hours = 0.0
    if match:
        number, unit = match.groups()
        hours = int(number) * HOURS_PER_UNIT[unit]
    if not 0 < hours <= HOURS_PER_CENTURY:
        raise typer.BadParameter(f"{text!r} is not a time such as 30m, 24h or 7d")
    return timedelta(hours=hours)


def parse_root_path(text: str) -> str:
    """Return a path such as ``/images``, or nothing for ``/``.

    >>> parse_root_path("/images/"), parse_root_path("/")
    ('/images', '')

    Raises:
        typer.BadParameter: *text* has another form.
    """
    if not re.fullmatch(r"(/[\w.~-]+)*/?", text, re.ASCII):
        raise typer.BadParameter(f"{text!r} is not a path such as /images")
    return text.rstrip("/")


Host = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 is all addresses of this machine.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free port.")]
ApiProcesses = Annotated[int, typer.Option(min=1, max=64, help="Processes that answer requests.")]
RootPath = Annotated[
    str,
    typer.Option(
        callback=parse_root_path,
        metavar="PATH",
        help="Path of the service behind a proxy that removes it, such as /images.",
    ),
]
Reload = Annotated[
    bool, typer.Option("--reload", help="Restart the API when its code changes (development).")
]
WorkerName = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of this Celery worker, unique on its host. Default: worker and the process id.",
        show_default=False,
    ),
]
Subject = Annotated[
    str, typer.Option("--sub", help="User id that the token identifies.", show_default=False)
]
Admin = Annotated[
    bool, typer.Option("--admin", help="Allow everything, such as deleting any image.")
]
ReadAll = Annotated[bool, typer.Option("--read-all", help="Allow reading all images and jobs.")]
Expires = Annotated[
    timedelta | None,
    typer.Option(
        parser=parse_lifetime,
        metavar="TIME",
        help="Lifetime, such as 30m, 24h or 7d. Default: never expires.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count what would be done; change nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ShowSecrets = Annotated[
    bool, typer.Option("--show-secrets", help="Print keys and passwords, too: for scripts.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    for command in (serve, worker, sweep, token, config):
        app.command(rich_help_panel=PANEL)(command)


def read_settings(*, quiet: bool = False) -> Settings:
    """Read the settings from the environment and ``.env``, set up logging and return them.

    If *quiet*, only warnings and errors are logged, so that the command's output stands out.
    Otherwise, also print a warning for each name in ``.env`` that is probably misspelt.
    """
    from imageprocessor.environment import load_settings
    from imageprocessor.logs import configure_logs

    settings = load_settings(os.environ)
    configure_logs(settings.log_format, "WARNING" if quiet else settings.log_level)
    if not quiet:
        warn_of_misspelt_names()
    return settings


def warn_of_misspelt_names() -> None:
    """Print a warning for each name in ``.env`` that is not a setting but resembles one."""
    from imageprocessor.environment import ENV_FILE, find_misspelt_names

    for name, similar in find_misspelt_names().items():
        print_note(f"warning: {name} in {ENV_FILE} is not a setting. Did you mean {similar}?")


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_processes: ApiProcesses = 1,
    root_path: RootPath = "/",
    reload: Reload = False,
) -> None:
    """Start the service: the HTTP API, and the workers that process the uploads.

    Settings come from the environment and .env; [bold]imageprocessor config[/bold] shows them.
    Ctrl-C stops the service after running requests and jobs are finished.

    Example: [bold]imageprocessor serve[/bold]

    Example: [bold]DATA_DIR=/srv/images imageprocessor serve --host 0.0.0.0 --api-processes 2[/bold]
    """
    with collector_paused():
        from imageprocessor.cli.background import choose_background, run_beside, stop_by_interrupt
        from imageprocessor.cli.banner import describe_service
        from imageprocessor.cli.serving import listen, serve_api
        from imageprocessor.queue.service import open_service
        from imageprocessor.queue.webhooks import apply_settings

    if reload and api_processes > 1:
        raise typer.BadParameter("works only with one API process", param_hint="'--reload'")
    settings = read_settings()
    stop_by_interrupt()
    with (
        suppress(KeyboardInterrupt),
        open_service(settings) as service,
        listen(host, port) as listener,
    ):
        apply_settings(service)
        print_note(describe_service(settings, listener, os.environ, root_path))
        answer = partial(
            serve_api, settings, listener, api_processes, root_path=root_path, reload=reload
        )
        background = choose_background(service)
        run_beside(background, answer) if background else answer()


def worker(name: WorkerName = None) -> None:
    """Run only workers. They process the jobs of every API with the same settings.

    WORKER_CONCURRENCY sets their number.
    Ctrl-C stops them after running jobs are finished.
    With QUEUE_BACKEND=celery, this starts a Celery worker with suitable options.

    Example: [bold]WORKER_CONCURRENCY=4 imageprocessor worker[/bold]
    """
    with collector_paused():
        from imageprocessor.cli.background import (
            become_celery,
            run_beside,
            stop_by_interrupt,
            wait_for_interrupt,
        )
        from imageprocessor.queue.metrics_port import serve_metrics
        from imageprocessor.queue.service import open_service
        from imageprocessor.queue.workers.supervisor import Supervisor

    settings = read_settings()
    count = settings.worker_concurrency
    if count == 0:
        raise SettingsError(
            "WORKER_CONCURRENCY=0: there would be no worker process. Set it to 1 or more."
        )
    if settings.queue_backend == "celery":
        become_celery(settings, name or f"worker-{os.getpid()}")
    stop_by_interrupt()
    with (
        suppress(KeyboardInterrupt),
        open_service(settings) as service,
        serve_metrics(service),
    ):
        print_note(f"{count} workers for {settings.data_dir.resolve()}")
        run_beside(Supervisor(service, count), wait_for_interrupt)


def sweep(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Clean up after crashes now, as the service itself does regularly.

    Releases lost jobs, finishes interrupted deletions and removes orphaned files:
    all steps, also those that another host does at the moment, and all files.

    Example: [bold]imageprocessor sweep --dry-run[/bold]
    """
    from imageprocessor.queue.health import oldest_open_seconds
    from imageprocessor.queue.maintenance.sweep import sweep as sweep_service
    from imageprocessor.queue.service import open_service

    with open_service(read_settings(quiet=True), creates=False) as service:
        found = sweep_service(service, dry_run=dry_run)
        oldest = oldest_open_seconds(service)
    if as_json:
        print_json({"dry_run": dry_run, "found": found, "oldest_open_seconds": oldest})
        return
    title = "Found, not cleaned up" if dry_run else "Found and cleaned up"
    rows = [(name.replace("_", " "), count) for name, count in found.items()]
    print_table(("what", "count"), rows, title=title)
    if oldest is not None:
        print_note(f"The oldest unfinished job is {oldest:.0f} s old.")


def token(
    sub: Subject, admin: Admin = False, read_all: ReadAll = False, expires: Expires = None
) -> None:
    """Print an access token, signed with JWT_SECRET_KEY or the key in DATA_DIR.

    Example: [bold]TOKEN=$(imageprocessor token --sub me)[/bold]

    Example: [bold]imageprocessor token --sub operator --admin --expires 24h[/bold]
    """
    from imageprocessor.errors import UnauthorizedError
    from imageprocessor.tokens import check_token, generated_key_path, load_keys, sign_token

    settings = read_settings(quiet=True)
    if settings.jwt_secret_key is None and not generated_key_path(settings).exists():
        raise SettingsError(
            f"There is no service in DATA_DIR={settings.data_dir.absolute()}: it has no key that "
            "signs tokens. Start `imageprocessor serve` first, which creates one; run this command "
            "in the folder where it was started, with the same settings; or set JWT_SECRET_KEY."
        )
    signed = sign_token(settings, sub, admin=admin, reads_all=read_all, lifetime=expires)
    try:
        check_token(signed, load_keys(settings), settings)
    except UnauthorizedError:
        raise typer.BadParameter(
            "the service would refuse this token: --sub must be 1 to 255 printable characters, "
            "and JWT_REQUIRE_EXP=true requires --expires"
        ) from None
    typer.echo(signed)


def config(as_json: AsJson = False, show_secrets: ShowSecrets = False) -> None:
    """Show every setting: value, origin and meaning. Secrets are hidden.

    Example: [bold]imageprocessor config[/bold]
    """
    from imageprocessor.environment import list_settings

    settings = read_settings(quiet=True)
    rows = list_settings(settings, os.environ, shows_secrets=show_secrets)
    warn_of_misspelt_names()
    if as_json:
        print_json(rows)
        return
    keys = ("name", "value", "origin", "meaning")
    cells = [[row[key] for key in keys] for row in rows]
    columns = ("setting", "value", "from", "meaning")
    print_table(columns, cells, whole=("setting",), optional=("meaning", "from"))
    if settings.sqlite_path and not settings.sqlite_path.exists():
        print_note(f"There is no service in DATA_DIR={settings.data_dir.absolute()} yet.")
