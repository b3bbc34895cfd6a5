"""The SQL statements and transactions of a request, counted in the driver.

The counts are exact, however busy the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, event
from starlette.testclient import TestClient

from benchmarks.figures import Figure, compare
from benchmarks.requests import SECRET, make_token
from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings

UPLOAD = "/api/v1/images/upload"


def count_statements(photo: bytes) -> list[Figure]:
    """Return the rows for the statements of a status check and the transactions of an upload."""
    with TemporaryDirectory() as folder, traced() as run:
        settings = Settings.model_validate({"data_dir": Path(folder), "jwt_secret_key": SECRET})
        with TestClient(create_app(settings)) as client:
            headers = {"Authorization": f"Bearer {make_token()}"}
            status_url = _upload(client, photo, headers)
            client.get(status_url)  # opens a connection
            run.clear()
            client.get(status_url)
            statements = len(run)
            run.clear()
            _upload(client, photo, headers)
    transactions = sum(statement.startswith("BEGIN") for statement in run)
    return [
        compare("status check", "SQL statements", [statements], "one", [1], at_most=1),
        compare("upload of 100 KB", "transactions", [transactions], "one", [1], at_most=1),
    ]


@contextmanager
def traced() -> Iterator[list[str]]:
    """Yield a list that collects each statement of the SQLite connections opened meanwhile."""
    run: list[str] = []

    def trace(connection: Any, _record: object) -> None:
        connection.set_trace_callback(run.append)

    event.listen(Engine, "connect", trace)
    try:
        yield run
    finally:
        event.remove(Engine, "connect", trace)


def _upload(client: TestClient, photo: bytes, headers: dict[str, str]) -> str:
    answer = client.post(
        UPLOAD, files={"file": ("a.jpg", photo)}, data={"bucket": "photos"}, headers=headers
    )
    assert answer.status_code == 202, answer.text
    status_url: str = answer.json()["status_url"]
    return status_url
