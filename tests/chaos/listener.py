"""A receiver of webhooks that fails at random, and checks of what it received."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from sqlalchemy import func, select

from imageprocessor.environment import load_settings
from imageprocessor.queue.database import clock
from imageprocessor.queue.database.connections import Database, open_database
from imageprocessor.queue.database.schema import migrate
from imageprocessor.queue.database.tables import (
    image_upload_events,
    webhook_deliveries,
    webhook_endpoints,
)
from imageprocessor.queue.events.webhook_request import make_secret
from imageprocessor.queue.jobs.webhooks import Endpoint
from tests.servers.webhook_receiver import Answer, ReceivedRequest, WebhookReceiver

MAX_FAILURES = 3  #: of one event
FAILURES = [
    Answer(500),
    Answer(429, {"Retry-After": "1"}),
    Answer(delay_seconds=2),  # longer than the sender waits
    Answer(resets=True),
]


@dataclass(slots=True)
class Listener:
    """Answers half of all requests with a failure, and notes what it accepted."""

    chance: random.Random
    failures: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)  #: ids of events

    def answer(self, request: ReceivedRequest) -> Answer:
        event_id = request.headers["webhook-id"]
        if self.failures[event_id] < MAX_FAILURES and self.chance.random() < 0.5:
            self.failures[event_id] += 1
            return self.chance.choice(FAILURES)
        self.accepted.add(event_id)
        return Answer()


@contextmanager
def listening(settings: dict[str, str], seed: int) -> Iterator[tuple[Listener, WebhookReceiver]]:
    """Run a listener, and make it an endpoint of the service that *settings* describe."""
    listener = Listener(random.Random(seed))
    with WebhookReceiver(listener.answer) as receiver:
        endpoint = Endpoint(
            name="chaos",
            url=receiver.url,
            secret=make_secret(),
            created_at=clock.utc_now(),
            event_types=("image.completed", "image.failed"),
            allows_private=True,
        )
        with closing(connect(settings)) as database:
            migrate(database)
            with database.write() as connection:
                connection.execute(webhook_endpoints.insert().values(endpoint.to_row()))
        yield listener, receiver


def connect(settings: dict[str, str]) -> Database:
    return open_database(load_settings(settings))


def count_waiting(settings: dict[str, str]) -> int:
    """Return how many deliveries have not ended."""
    query = select(func.count()).where(webhook_deliveries.c.status == "waiting")
    with closing(connect(settings)) as database, database.read() as connection:
        return connection.scalar(query) or 0


def check_deliveries(
    settings: dict[str, str], listener: Listener, receiver: WebhookReceiver
) -> None:
    """Check that each event that ended a job arrived, and each try of it with the same id."""
    ends = image_upload_events.c.event_type.in_(("completed", "failed"))
    with closing(connect(settings)) as database, database.read() as connection:
        events = set(connection.scalars(select(image_upload_events.c.id).where(ends)))
        statuses = set(connection.scalars(select(webhook_deliveries.c.status)))
    assert events
    assert listener.accepted == events
    assert statuses == {"delivered"}
    ids_by_event = defaultdict(set)
    bodies_by_id = defaultdict(set)
    for request in receiver.requests:
        said = json.loads(request.body)
        ids_by_event[said["job_id"], said["type"]].add(request.headers["webhook-id"])
        bodies_by_id[request.headers["webhook-id"]].add(request.body)
    assert {len(ids) for ids in ids_by_event.values()} == {1}
    assert {len(bodies) for bodies in bodies_by_id.values()} == {1}
    assert listener.failures.total() > 0
