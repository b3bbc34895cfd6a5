"""The specification's client, unchanged, against a running service with real workers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from imageprocessor.queue.service import open_service
from imageprocessor.queue.workers.supervisor import Supervisor
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, oriented, photo, truncated
from tests.server.live import serve


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("data"), version="1.0.0", worker_concurrency=1)


@pytest.fixture(scope="module")
def base_url(settings: Settings) -> Iterator[str]:
    """The URL of a server that runs next to a supervisor."""
    with open_service(settings) as service:
        supervisor = Supervisor(service, settings.worker_concurrency)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        with serve(settings) as port:
            yield f"http://127.0.0.1:{port}"
        supervisor.stop()
        thread.join()


@pytest.fixture
def processor(base_url: str, settings: Settings) -> Any:
    """The specification's class, kept as text so that no formatter or type checker changes it."""
    names: dict[str, Any] = {"asyncio": asyncio, "httpx": httpx, "json": json}
    exec(Path(__file__).with_name("seed_client.txt").read_text(), names)
    return names["ImageProcessorClient"](
        base_url=base_url, jwt_token=sign_token(settings, "test-user-123")
    )


def send(processor: Any, data: bytes) -> Any:
    async def upload_and_wait() -> Any:
        accepted = await processor.upload_image(
            file_data=data,
            bucket="activity-images",
            metadata={"activity_id": "xyz", "user_id": "abc"},
        )
        return await processor.poll_until_complete(accepted["job_id"])

    return asyncio.run(upload_and_wait())


def test_specifications_client_gets_the_result(processor: Any, base_url: str) -> None:
    result = send(processor, oriented(photo(300, 400), 6))
    assert list(result["urls"]) == ["thumbnail", "medium", "large", "original"]
    assert result["metadata"]["original_dimensions"] == {"width": 300, "height": 400}
    assert result["metadata"]["dominant_color"].startswith("#")
    assert result["context"] == {"activity_id": "xyz", "user_id": "abc"}
    for size, url in result["urls"].items():
        expected = result["metadata"]["variants"][size]
        with Image.open(BytesIO(httpx.get(f"{base_url}{url}").content)) as image:
            assert (image.format, image.size) == (
                "WEBP",
                (expected["width"], expected["height"]),
            )


def test_specifications_client_gets_a_422_for_a_truncated_image(processor: Any) -> None:
    with pytest.raises(httpx.HTTPStatusError) as failure:
        send(processor, truncated(encode(photo(300, 400), "JPEG"), 0.5))
    assert failure.value.response.status_code == 422
    assert failure.value.response.json()["code"] == "image_truncated"
