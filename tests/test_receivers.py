"""The receivers that the page on being told shows accept real webhooks and refuse forged ones."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from sqlalchemy import select

from imageprocessor.queue.database.connections import open_database
from imageprocessor.queue.database.tables import webhook_deliveries
from imageprocessor.settings import Settings
from tests.conftest import require_program
from tests.deploy.live import run_service
from tests.servers import find_free_port, run_server

PAGE = Path(__file__).parent.parent / "docs" / "being-told.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def read_example(name: str, language: str) -> str:
    """Return the code that the page shows under the bold *name*."""
    text = PAGE.read_text(encoding="utf-8")
    example = re.search(rf"\*\*{name}\*\*.*?```{language}\n(.*?)```", text, re.DOTALL)
    assert example
    return example[1]


@contextmanager
def run_fastapi(folder: Path) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """Run the FastAPI receiver; yield its URL, and whether it has handled an image."""
    del folder
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEBHOOK_SECRET", SECRET)
        exec(read_example("FastAPI", "python"), names)
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield (
            f"http://127.0.0.1:{port}/webhooks/images",
            lambda image_id: image_id in names["images"],
        )
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def run_node(folder: Path) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """Run the Node receiver. It answers 2xx only after it has verified a signature."""
    node, npm = require_program("node"), require_program("npm")
    options = ["--no-audit", "--no-fund", "--prefix", str(folder)]
    subprocess.run([npm, "install", *options, "standardwebhooks@1.1.1"], check=True, timeout=120)
    program = folder / "receiver.mjs"
    program.write_text(read_example("Node", "js"))
    port = find_free_port()
    environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with run_server([node, str(program)], port, folder / "node.log", env=environment):
        yield f"http://127.0.0.1:{port}/", lambda _: True


@pytest.mark.parametrize("run_receiver", [run_fastapi, run_node])
def test_shown_receiver_verifies_what_the_service_posts(
    tmp_path: Path, run_receiver: Callable[[Path], Any]
) -> None:
    with run_receiver(tmp_path) as (url, has_handled):
        settings = {"WEBHOOK_URL": url, "WEBHOOK_SECRET": SECRET}
        with run_service(tmp_path / "data", **settings) as service:
            image_id = service.make_image()
            posted = wait_for_deliveries(tmp_path / "data", image_id)
        assert {row["event_type"] for row in posted} == {"image.accepted", "image.completed"}
        assert has_handled(image_id)

        body = next(row["body"] for row in posted if row["event_type"] == "image.completed")
        forged = Request(url, body.encode(), forge_headers(posted[0]["event_id"]))
        with pytest.raises(HTTPError, match="401"):
            urlopen(forged)


def wait_for_deliveries(folder: Path, image_id: str) -> list[dict[str, Any]]:
    """Return the deliveries of an image's events once all have been answered with a 2xx."""
    database = open_database(Settings(data_dir=folder))
    query = select(webhook_deliveries).where(webhook_deliveries.c.image_id == image_id)
    try:
        for _ in range(200):
            with database.read() as connection:
                rows = [dict(row) for row in connection.execute(query).mappings()]
            if len(rows) == 2 and {row["status"] for row in rows} == {"delivered"}:
                return rows
            time.sleep(0.05)
        raise AssertionError("the webhooks were not delivered")
    finally:
        database.close()


def forge_headers(event_id: str) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    }
