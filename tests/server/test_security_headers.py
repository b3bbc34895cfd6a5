from __future__ import annotations

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    "path", ["/livez", "/docs", "/nowhere", "/openapi.json", "/api/v1/images/upload", "/storage/x"]
)
def test_every_answer_forbids_sniffing_framing_and_referrers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_nothing_but_the_docs_may_run_anything(client: TestClient) -> None:
    assert "sandbox" in client.get("/livez").headers["content-security-policy"]
    policy = client.get("/docs").headers["content-security-policy"]
    assert "sandbox" not in policy
    assert "http" not in policy
    assert "*" not in policy
