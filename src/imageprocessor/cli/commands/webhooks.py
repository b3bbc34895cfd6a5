"""``webhooks``: add, list, show, test, rotate, disable, enable, remove and replay endpoints."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imageprocessor.cli.commands.service import PANEL, AsJson, parse_lifetime, read_settings
from imageprocessor.cli.output import (
    print_error,
    print_json,
    print_note,
    print_pairs,
    print_table,
    show_counts,
    show_failure,
    show_status,
    show_time,
)

if TYPE_CHECKING:
    from imageprocessor.queue.jobs.webhooks import Endpoint
    from imageprocessor.queue.webhooks import EndpointState

DELIVERIES_SHOWN = 10  #: of those that wait, and of those that ended
VERIFY = (
    "Give it to the receiver, which checks each request with it, for example in Python "
    "(pip install standardwebhooks):\n"
    "  standardwebhooks.Webhook(secret).verify(body, headers)"
)


def parse_since(text: str) -> datetime:
    """Parse a time such as ``2024-11-08T14:00Z``, or a time ago such as ``2h``.

    >>> parse_since("2024-11-08 14:00").isoformat()
    '2024-11-08T14:00:00+00:00'

    Raises:
        typer.BadParameter: *text* has another form.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.now(UTC) - parse_lifetime(text)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{text!r} is neither a time such as 2024-11-08T14:00Z (UTC if it names no zone) "
            "nor a time ago such as 30m, 24h or 7d"
        ) from None


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The endpoint's name.", show_default=False)
]
Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="Where to send events, with https.", show_default=False),
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        metavar="TYPE",
        help="Send only events of this type, such as image.completed; may be repeated. "
        "Default: all.",
        show_default=False,
    ),
]
Buckets = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket",
        metavar="BUCKET",
        help="Send only events of images in this bucket; may be repeated. Default: all.",
        show_default=False,
    ),
]
OnlyNamed = Annotated[
    bool,
    typer.Option(
        "--only-named", help="Send only events of uploads whose field `webhook` is this name."
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private", help="Allow http, and addresses that are not on the public Internet."
    ),
]
ShowSecret = Annotated[bool, typer.Option("--secret", help="Show the secret, too.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Since = Annotated[
    datetime,
    typer.Option(
        parser=parse_since,
        metavar="TIME",
        help="A time such as 2024-11-08T14:00Z, or a time ago such as 30m, 24h or 7d.",
        show_default=False,
    ),
]
FailedOnly = Annotated[
    bool, typer.Option("--failed-only", help="Only what failed after its last try.")
]

webhooks = typer.Typer(
    no_args_is_help=True, help="Manage webhook endpoints: the receivers of events."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to *app*."""
    webhooks.command(name="list")(list_endpoints)
    webhooks.command(name="test")(send_test)
    for command in (add, show, rotate, disable, enable, remove, replay):
        webhooks.command()(command)
    app.add_typer(webhooks, name="webhooks", rich_help_panel=PANEL)


def add(  # noqa: PLR0913, PLR0917 - each is an option
    name: Name,
    url: Url,
    event: Events = None,
    bucket: Buckets = None,
    only_named: OnlyNamed = False,
    allow_private: AllowPrivate = False,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint, and print the new secret that signs what is sent to it.

    The endpoint gets the events that happen from now on. Its host must have only
    addresses of the public Internet; each delivery checks that again.

    Example: [bold]imageprocessor webhooks add shop https://shop.example.com/hooks[/bold]

    Example: [bold]imageprocessor webhooks add ci https://ci.example.com/ --event image.failed[/bold]
    """  # noqa: E501 - an example must be one line
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import add_endpoint

    with open_service(read_settings(quiet=True), creates=False) as service:
        endpoint = add_endpoint(
            service,
            name,
            url,
            event_types=event or (),
            buckets=bucket or (),
            only_named=only_named,
            allows_private=allow_private,
        )
    print_secret(endpoint, as_json=as_json)
    print_note(f"Try it: imageprocessor webhooks test {name}")


def list_endpoints(as_json: AsJson = False) -> None:
    """List the endpoints, and how each fares: ok, failing or disabled.

    Example: [bold]imageprocessor webhooks list[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import list_states

    with open_service(read_settings(quiet=True), creates=False) as service:
        states = list_states(service)
    if as_json:
        print_json([describe_state(state) for state in states])
    elif states:
        columns = ("name", "state", "waiting", "last success", "url")
        print_table(columns, map(_state_row, states), whole=("name",), optional=("url",))
    else:
        print_note("There are no endpoints. Add one: imageprocessor webhooks add NAME URL")


def show(name: Name, secret: ShowSecret = False, as_json: AsJson = False) -> None:
    """Show an endpoint, and its newest deliveries with their tries.

    Example: [bold]imageprocessor webhooks show shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import list_deliveries, read_state

    with open_service(read_settings(quiet=True), creates=False) as service:
        state = read_state(service, name)
        deliveries = list_deliveries(service, name, DELIVERIES_SHOWN)
    facts = describe_state(state)
    if secret:
        facts["secret"] = state.endpoint.secret
    if as_json:
        print_json({**facts, "deliveries": deliveries})
        return
    facts["waiting"] = show_waiting(state.waiting)
    print_pairs(f"Endpoint {name}", facts)
    if deliveries:
        print_deliveries(deliveries, "job_id")


def send_test(name: Name, as_json: AsJson = False) -> None:
    """Send a signed event of the type `webhook.test` now, and print the receiver's answer.

    It is sent once, even if the endpoint is disabled, and delays no other delivery.
    Exit code 1: the receiver did not accept it.

    Example: [bold]imageprocessor webhooks test shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import send_test as send

    with open_service(read_settings(quiet=True), creates=False) as service:
        reply = send(service, name)
    if as_json:
        facts = {"status": reply.status, "seconds": round(reply.seconds, 3), "error": reply.error}
        print_json({"endpoint": name, "accepted": reply.succeeded, **facts})
    else:
        title = "accepted the test" if reply.succeeded else "did not accept the test"
        facts = {"status": reply.status, "time": f"{reply.seconds:.3f} s", "error": reply.error}
        print_pairs(f"{name} {title}", facts)
    if not reply.succeeded:
        raise typer.Exit(1)


def rotate(name: Name, as_json: AsJson = False) -> None:
    """Print a new secret for an endpoint. For 24 hours, the old one signs, too.

    So nothing is lost if the receiver gets the new one within that time. Rotate again
    at once, and only the two newest secrets sign.

    Example: [bold]imageprocessor webhooks rotate shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import rotate_secret

    with open_service(read_settings(quiet=True), creates=False) as service:
        endpoint = rotate_secret(service, name)
    print_secret(endpoint, as_json=as_json)


def disable(name: Name, as_json: AsJson = False) -> None:
    """Stop sending to an endpoint. Its deliveries, and those of new events, wait.

    Example: [bold]imageprocessor webhooks disable shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import disable_endpoint

    with open_service(read_settings(quiet=True), creates=False) as service:
        changed = disable_endpoint(service, name, "by an operator")
    if as_json:
        print_json({"endpoint": name, "changed": changed})
    elif changed:
        print_note(f"{name} is disabled. Its events wait: imageprocessor webhooks enable {name}")
    else:
        print_note(f"{name} is disabled already.")


def enable(name: Name, as_json: AsJson = False) -> None:
    """Send to a disabled or failing endpoint again, as if it had never failed.

    Example: [bold]imageprocessor webhooks enable shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import enable_endpoint

    with open_service(read_settings(quiet=True), creates=False) as service:
        waiting = enable_endpoint(service, name)
    if as_json:
        print_json({"endpoint": name, "waiting": waiting})
    else:
        print_note(f"{name} is enabled. Deliveries to be sent now: {show_waiting(waiting)}")


def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove an endpoint, and drop the deliveries that wait for it.

    Example: [bold]imageprocessor webhooks remove shop[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhooks import check_removable, read_state, remove_endpoint

    with open_service(read_settings(quiet=True), creates=False) as service:
        check_removable(service, name)
        waiting = show_waiting(read_state(service, name).waiting)
        if not yes:
            question = f"Remove {name}, and drop the deliveries that wait for it: {waiting}?"
            typer.confirm(question, abort=True, err=True)
        with show_counts(silent=as_json) as report:
            dropped = remove_endpoint(service, name, report)
    if as_json:
        print_json({"endpoint": name, "dropped": dropped})
    else:
        print_note(f"{name} is removed. Deliveries dropped: {dropped}")


def replay(
    name: Name, since: Since, failed_only: FailedOnly = False, as_json: AsJson = False
) -> None:
    """Send to an endpoint again what was sent since TIME, under the same event ids.

    Events since then that it never got, such as those from before it was added, are
    sent, too. Left out are events of images that were deleted, except the deletion
    itself, and failures that were retried since.

    If it is interrupted, run it again: what waits already is not added twice.

    Example: [bold]imageprocessor webhooks replay shop --since 2h --failed-only[/bold]
    """
    from imageprocessor.queue.service import open_service
    from imageprocessor.queue.webhook_replay import replay as replay_events
    from imageprocessor.queue.webhooks import read_endpoint

    with open_service(read_settings(quiet=True), creates=False) as service:
        with show_counts(silent=as_json) as report:
            replayed = replay_events(service, name, since, report, failed_only=failed_only)
        is_disabled = read_endpoint(service, name).disabled_at is not None
    if as_json:
        counts = {"repeated": replayed.repeated, "added": replayed.added}
        print_json({"endpoint": name, **counts, "disabled": is_disabled})
        return
    print_note(f"Deliveries repeated: {replayed.repeated}; of events never sent: {replayed.added}")
    if is_disabled:
        print_error(f"{name} is disabled: they wait until imageprocessor webhooks enable {name}")


def print_secret(endpoint: Endpoint, *, as_json: bool) -> None:
    """Print an endpoint's secret, and what to do with it."""
    if as_json:
        print_json({"name": endpoint.name, "url": endpoint.url, "secret": endpoint.secret})
        return
    print_note(f"The secret of {endpoint.name}:")
    typer.echo(endpoint.secret)
    print_note(VERIFY)


def describe_state(state: EndpointState) -> dict[str, Any]:
    """Return what an operator may want to know about an endpoint, ready for JSON; no secret."""
    endpoint = state.endpoint
    events = list(endpoint.event_types) if endpoint.event_types else None
    buckets = list(endpoint.buckets) if endpoint.buckets else None
    options = {
        "name": endpoint.name,
        "state": state.name,
        "url": endpoint.url,
        "events": events,
        "buckets": buckets,
        "only_named": endpoint.only_named,
        "allow_private": endpoint.allows_private,
        "from_settings": endpoint.from_settings,
        "created_at": show_time(endpoint.created_at),
    }
    deliveries = {
        "waiting": state.waiting,
        "oldest_waiting": show_time(state.oldest_waiting),
        "last_success": show_time(state.last_success),
    }
    faults = {
        "failing_since": show_time(endpoint.failing_since),
        "disabled_at": show_time(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
    }
    secret_ends = show_time(endpoint.previous_secret_expires_at)
    return {**options, **deliveries, **faults, "previous_secret_expires_at": secret_ends}


def show_waiting(count: int) -> str:
    """Return a number of waiting deliveries, which is not counted further than a limit."""
    from imageprocessor.queue.jobs.webhook_history import MAX_COUNTED

    return f"{MAX_COUNTED} or more" if count == MAX_COUNTED else str(count)


def print_deliveries(deliveries: Iterable[dict[str, Any]], first_column: str) -> None:
    """Print deliveries with their last answer and next try; *first_column* tells them apart."""
    columns = (first_column, "event", "status", "tries", "last answer", "next try", "ended")
    rows = [_delivery_row(delivery, first_column) for delivery in deliveries]
    print_table(columns, rows, optional=("ended", "next try"))


def _delivery_row(delivery: dict[str, Any], first_column: str) -> tuple[object, ...]:
    answer = delivery["last_error"] or delivery["last_status_code"]
    is_waiting = delivery["status"] == "waiting"
    return (
        delivery[first_column],
        delivery["event_type"],
        show_status(delivery["status"]),
        delivery["attempt_count"],
        show_failure(str(answer)) if delivery["last_error"] else answer,
        delivery["next_attempt_at"] if is_waiting else None,
        delivery["ended_at"],
    )


def _state_row(state: EndpointState) -> tuple[object, ...]:
    shown = state.name
    if state.name == "failing":
        shown += f" since {state.endpoint.failing_since:%Y-%m-%d %H:%M}"
    elif state.name == "disabled":
        shown += f": {state.endpoint.disabled_reason}"
    success = f"{state.last_success:%Y-%m-%d %H:%M:%S}" if state.last_success else "never"
    waiting = show_waiting(state.waiting)
    return state.endpoint.name, show_status(shown), waiting, success, state.endpoint.url
