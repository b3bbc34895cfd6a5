"""The upload page and <image-upload>, in a real browser."""

from __future__ import annotations

import base64
import gzip
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from imageprocessor.queue.jobs import job_store
from imageprocessor.queue.service import Service
from imageprocessor.server.routes.upload_page import WIDGET
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.images import encode, photo
from tests.server.browsing import check, list_requests, run_jobs
from tests.server.live import serve, wait_until
from tests.server.shop import IN_DROP, drop, serve_shop
from tests.uploads import list_all_jobs

JPEG = encode(photo(80, 60), "JPEG")
PNG = encode(photo(60, 60, seed=2), "PNG")
FILES = ("/upload", "/upload/page.css", "/upload/page.js", f"/upload/{WIDGET}")
PASTE = f"""{IN_DROP}
document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: moved, bubbles: true }}));
"""


def states(element: Any) -> list[str]:
    return [state.text for state in element.shadow_root.find_elements("css selector", ".state")]


def choose(browser: Any, element: Any, *paths: Path) -> None:
    """Choose files as in the browser's dialog."""
    field = element.shadow_root.find_element("css selector", "input")
    browser.execute_script("arguments[0].hidden = false", field)  # the driver needs to see it
    field.send_keys("\n".join(map(str, paths)))
    browser.execute_script("arguments[0].hidden = true", field)


def test_page_uploads_shows_and_deletes(
    settings: Settings, service: Service, browser: Any, axe: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "<b>a & b.png").write_bytes(PNG)
    token = sign_token(settings, "upload-page")
    with run_jobs(service), serve(settings) as port:
        origin = f"http://127.0.0.1:{port}"
        granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        browser.execute_cdp_cmd("Browser.grantPermissions", granted)
        browser.get(f"{origin}/upload#token={token}")
        element = browser.find_element("css selector", "image-upload")
        wait_until(lambda: browser.current_url == f"{origin}/upload")
        choose(browser, element, tmp_path / "notes.txt", tmp_path / "<b>a & b.png")
        browser.execute_script(PASTE, None, base64.b64encode(JPEG).decode(), "pasted.jpg")
        wait_until(lambda: len(browser.find_elements("css selector", ".card")) == 2)
        said = states(element)
        assert said[0].startswith("The file is of an unknown type. Send one of image/jpeg")
        assert said[1:] == ["Done", "Done"]
        assert check(browser, axe) == []
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        browser.execute_async_script("setTimeout(arguments[0], 500)")  # until colours have changed
        assert check(browser, axe) == []

        card = next(
            card
            for card in browser.find_elements("css selector", ".card")
            if card.find_element("css selector", "h2").text == "<b>a & b.png"
        )
        slider = card.find_element("css selector", "input")
        slider.send_keys("\ue014")  # the right arrow
        frame = card.find_element("css selector", ".compare")
        assert "--at: 51%" in frame.get_attribute("style")
        copy, delete = card.find_elements("css selector", "button")
        copy.click()
        wait_until(lambda: copy.text == "Copied")
        snippet = browser.execute_script("return navigator.clipboard.readText()")
        assert f'srcset="{origin}/storage/photos/processed/thumbnail/' in snippet
        delete.click()
        assert delete.text == "Delete for good?"
        delete.click()
        wait_until(lambda: "is deleted, with all its sizes" in card.text)
        faults = [line["message"] for line in browser.get_log("browser")]
        requested = list_requests(browser)
        sizes = [len(urlopen(origin + path).read()) for path in FILES]
    assert ["415" in fault for fault in faults] == [True], faults
    sent = [url for url in requested if url.startswith(("http", "ws"))]
    assert [url for url in sent if not url.startswith(origin)] == []
    assert sum(sizes) <= 60_000
    with service.database.read() as connection:
        left = list_all_jobs(connection)
    assert [job.user_id for job in left] == ["upload-page"]


def test_element_on_another_site_puts_the_id_into_its_form(
    settings: Settings, service: Service, browser: Any
) -> None:
    with run_jobs(service), serve(settings) as port:
        api = f"http://127.0.0.1:{port}"
        with serve_shop(api, sign_token(settings, "ann")) as shop:
            browser.get(shop)
            element = browser.find_element("css selector", "image-upload")
            wait_until(lambda: browser.execute_script("return !!arguments[0].shadowRoot", element))
            form = browser.find_element("css selector", "form")
            assert not browser.execute_script("return arguments[0].checkValidity()", form)
            drop(browser, element, b"no image")
            wait_until(lambda: browser.execute_script("return told.length") == 1)
            drop(browser, element, JPEG)
            wait_until(lambda: browser.execute_script("return told.length") == 2)
            told = browser.execute_script("return told")
            value = browser.execute_script(
                "return new FormData(arguments[0]).getAll('photo')", form
            )
            assert browser.execute_script("return arguments[0].checkValidity()", form)
    assert told[0] == "type_unsupported"
    assert value == [told[1]]
    with service.database.read() as connection:
        job = job_store.find_image(connection, told[1])
    assert job is not None
    assert job.user_id == "ann"


def test_page_has_a_strict_policy(client: TestClient) -> None:
    policy = client.get("/upload").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_files_are_sent_again_only_when_they_change(client: TestClient) -> None:
    for path in FILES:
        first = client.get(path)
        assert first.status_code == 200
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/upload/index.html").status_code == 404
    assert client.get("/upload/..%2F..%2Fapp.py").status_code == 404


@pytest.mark.parametrize("settings", [{"upload_page": False}], indirect=True)
def test_only_the_element_is_served_without_the_page(client: TestClient) -> None:
    assert [client.get(path).status_code for path in FILES] == [404, 404, 404, 200]
    element = client.get(FILES[-1])
    assert element.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("settings", [{"allowed_buckets": ["avatars", "covers"]}], indirect=True)
def test_page_proposes_an_allowed_bucket(client: TestClient) -> None:
    assert 'value="avatars"' in client.get("/upload").text


def test_element_is_small() -> None:
    module = files("imageprocessor.server").joinpath("pages", "upload", WIDGET).read_bytes()
    assert len(gzip.compress(module)) <= 10_000
