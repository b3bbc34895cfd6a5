from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from imageprocessor.server.app import create_app
from imageprocessor.settings import Settings


@pytest.mark.parametrize("root_path", ["", "/images"])
def test_index_says_where_the_docs_are(settings: Settings, root_path: str) -> None:
    with TestClient(create_app(settings), root_path=root_path) as client:
        index = client.get(f"{root_path}/").json()
        assert index == {
            "service": "image-processor",
            "version": "1.0.0",
            "docs": f"{root_path}/docs",
            "openapi": f"{root_path}/openapi.json",
        }
        assert index["openapi"] in client.get(index["docs"]).text
        assert client.head(index["openapi"]).status_code == 200
        servers = client.get(index["openapi"]).json().get("servers", [])
        assert servers == [{"url": root_path}] * bool(root_path)
