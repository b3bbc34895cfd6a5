"""The admin pages in a real browser: by keyboard, at every width, in the light and in the dark."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.keys import Keys

from imageprocessor.errors import StorageUnavailableError
from imageprocessor.queue import attempts
from imageprocessor.queue.access import OPERATOR
from imageprocessor.queue.job_control import read_job
from imageprocessor.queue.jobs.job import Job, JobStatus
from imageprocessor.queue.pause import read_pause
from imageprocessor.queue.service import Service
from imageprocessor.queue.webhooks import (
    add_endpoint,
    disable_endpoint,
    list_job_deliveries,
)
from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.server.browsing import check, list_requests
from tests.server.live import serve, wait_until
from tests.uploads import submit_to

HOSTILE = "<b>mallory</b>" + "w" * 200
MAX_FILE_BYTES = 20_000  #: of the pages themselves, the longest has 40 kB


def fail(service: Service, job: Job) -> None:
    fault = StorageUnavailableError(f"The storage is gone: {HOSTILE}{'e' * 10_000}")
    assert attempts.fail_waiting(service, job.job_id, "worker", fault)


def press(browser: Any, *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)


def focus(browser: Any, text: str, limit: int = 60) -> None:
    """Press Tab until a link or button with *text* has the focus."""
    for _ in range(limit):
        press(browser, Keys.TAB)
        if browser.execute_script("return document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"Tab does not reach {text!r}")


def read_main(browser: Any) -> str:
    text: str = browser.execute_script("return document.querySelector('main').innerText")
    return text


def log_in(browser: Any, origin: str, settings: Settings) -> None:
    browser.get(f"{origin}/admin/login")
    press(browser, sign_token(settings, "olga", admin=True), Keys.ENTER)
    wait_until(lambda: browser.current_url == f"{origin}/admin")


@pytest.fixture
def jobs(service: Service) -> dict[str, Job]:
    """A completed job, and two failed ones of which one is a hostile user's."""
    made = {
        "done": submit_to(service, user_id="ann"),
        "failed": submit_to(service, user_id="ann"),
        "hostile": submit_to(service, user_id=HOSTILE),
    }
    attempts.run_job(service, made["done"].job_id, "worker")
    fail(service, made["failed"])
    fail(service, made["hostile"])
    add_endpoint(service, "shop", "https://hooks.example/", resolve=lambda *_: ["93.184.216.34"])
    disable_endpoint(service, "shop", HOSTILE)
    return made


def test_pages_are_accessible_and_fit(
    settings: Settings, service: Service, jobs: dict[str, Job], browser: Any, axe: str
) -> None:
    waiting = submit_to(service, user_id="ann")
    (delivery,) = list_job_deliveries(service, waiting.job_id)
    with serve(settings) as port:
        origin = f"http://localhost:{port}"
        log_in(browser, origin, settings)
        paths = ["", "/jobs", "/jobs?status=failed", "/images", "/webhooks", "/webhooks/shop"]
        paths += [f"/webhooks/deliveries/{delivery['delivery_id']}"]
        paths += ["/actions", "/settings", "/jobs/nothing"]
        paths += [f"/jobs/{job.job_id}" for job in jobs.values()]
        found = {}
        for path in paths:
            browser.get(f"{origin}/admin{path}")
            for width, scheme in ((320, "dark"), (768, "light"), (1440, "light")):
                show_as(browser, width, scheme)
                found[path, width] = check(browser, axe) if width != 768 else []
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, (path, width)
        browser.get(f"{origin}/admin/login")
        found["/login", 1440] = check(browser, axe)
        logged = [line["message"] for line in browser.get_log("browser")]
        requested = [url for url in list_requests(browser) if url.startswith(("http", "ws"))]
        sizes = [
            len(urlopen(f"{origin}/admin/static/{name}").read())
            for name in ("admin.css", "admin.js")
        ]
    assert {key: faults for key, faults in found.items() if faults} == {}
    assert [line for line in logged if "status of 422" not in line] == []
    assert [url for url in requested if not url.startswith(origin)] == []
    assert sum(sizes) <= MAX_FILE_BYTES


def show_as(browser: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_admin_works_by_keyboard(
    settings: Settings, service: Service, jobs: dict[str, Job], browser: Any
) -> None:
    with serve(settings) as port:
        origin = f"http://localhost:{port}"
        log_in(browser, origin, settings)
        focus(browser, "Pause workers…")
        press(browser, Keys.ENTER)
        press(browser, Keys.ESCAPE)
        assert read_pause(service) is None  # it asked
        press(browser, Keys.ENTER, Keys.SHIFT + Keys.TAB)
        press(browser, Keys.ENTER)
        wait_until(lambda: "Paused. Uploads are still accepted" in read_main(browser))
        focus(browser, "Resume")
        press(browser, Keys.ENTER)
        wait_until(lambda: "Workers take jobs again" in read_main(browser))

        browser.get(f"{origin}/admin/jobs")
        browser.find_element("id", "status").send_keys("failed")
        browser.find_element("id", "user").send_keys("ann", Keys.ENTER)
        wait_until(lambda: "user=ann" in browser.current_url)
        assert jobs["failed"].job_id in read_main(browser)
        assert jobs["hostile"].job_id not in read_main(browser)
        focus(browser, "Retry all matching…")
        press(browser, Keys.ENTER, Keys.SHIFT + Keys.TAB)
        press(browser, Keys.ENTER)
        wait_until(lambda: "waiting for a worker again: 1." in read_main(browser))
        assert "notice" not in browser.current_url
        assert read_status(service, jobs["failed"]) is JobStatus.PENDING
        assert read_status(service, jobs["hostile"]) is JobStatus.FAILED

        browser.get(f"{origin}/admin/jobs/{jobs['done'].job_id}")
        wait_until(lambda: browser.execute_script("return document.images[0].naturalWidth") > 0)
        focus(browser, "Delete image…")
        press(browser, Keys.ENTER, Keys.SHIFT + Keys.TAB)
        press(browser, Keys.ENTER)
        wait_until(lambda: "The image is deleted" in read_main(browser))

        browser.get(f"{origin}/admin/webhooks/shop")
        focus(browser, "Send events again…")
        press(browser, Keys.ENTER)
        browser.find_element("id", "which").send_keys("all")
        focus(browser, "Send again")
        press(browser, Keys.ENTER)
        wait_until(lambda: "Deliveries that are sent again:" in read_main(browser))
        focus(browser, "Log out")
        press(browser, Keys.ENTER)
        wait_until(lambda: "You have logged out" in read_main(browser))


def read_status(service: Service, job: Job) -> JobStatus:
    return read_job(service, job.job_id, OPERATOR).status


def test_page_follows_what_happens_until_it_is_held(
    settings: Settings, service: Service, browser: Any
) -> None:
    with serve(settings) as port:
        origin = f"http://localhost:{port}"
        log_in(browser, origin, settings)
        browser.get(f"{origin}/admin/jobs")
        assert "No jobs yet" in read_main(browser)
        first = submit_to(service)
        wait_until(lambda: first.job_id in read_main(browser), 8)  # sooner than by the timer
        browser.find_element("id", "hold").click()
        wait_until(lambda: browser.find_element("id", "hold").text == "Held")
        browser.refresh()
        assert browser.find_element("id", "hold").get_attribute("aria-pressed") == "true"
        second = submit_to(service)
        browser.implicitly_wait(0)
        browser.execute_async_script("setTimeout(arguments[0], 2500)")
        assert second.job_id not in read_main(browser)
        browser.find_element("id", "hold").click()
        wait_until(lambda: second.job_id in read_main(browser))
