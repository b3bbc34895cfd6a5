"""Take the documentation's screenshots of the service's pages: ``python docs/screenshots.py``."""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from PIL import Image

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.servers import find_free_port, run_server
from tests.servers.browser import open_browser

DOCS = Path(__file__).parent
JWT_KEY = "a key that signs the tokens of a screenshot and nothing else"
WIDTH = 1000


def main() -> None:
    """Run the service, and take the screenshots."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), find_free_port()
        environment = os.environ | {
            "DATA_DIR": name,
            "JWT_SECRET_KEY": JWT_KEY,
            "ADMIN_UI": "true",
        }
        command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
        settings = Settings.model_validate({"jwt_secret_key": JWT_KEY})
        token = sign_token(settings, "upload-page")
        with (
            run_server(command, port, folder / "serve.log", env=environment),
            open_browser(folder / "profile") as browser,
        ):
            browser.get(f"http://127.0.0.1:{port}/upload#token={token}")
            upload(browser, DOCS / "photo.jpg")
            save(browser, "upload-page", 1520)
            take_admin_pages(browser, f"http://127.0.0.1:{port}", settings)


def take_admin_pages(browser: Any, origin: str, settings: Settings) -> None:
    """Upload what the tests' and the docs' pictures show, and save the admin pages."""
    for number, path in enumerate(sorted((DOCS / "pictures").glob("*.webp"))[::9][:12]):
        token = sign_token(settings, ("ann", "shop-17", "bob")[number % 3])
        send(origin, token, path)
    with_hole = (DOCS / "photo.jpg").read_bytes()[:60_000]
    send(origin, sign_token(settings, "bob"), Path("cut.jpg"), with_hole)
    browser.get(f"{origin}/admin/login")
    field = browser.find_element("id", "token")
    field.send_keys(sign_token(settings, "olga", admin=True))
    field.submit()
    time.sleep(4)  # until the jobs have ended, and the page has followed
    save(browser, "admin-overview", 1180)
    browser.get(f"{origin}/admin/images")
    browser.find_elements("css selector", ".grid a")[-1].click()
    time.sleep(2)
    save(browser, "admin-job", 1010)


def send(origin: str, token: str, path: Path, content: bytes | None = None) -> None:
    """Upload an image to the bucket "photos"."""
    httpx.post(
        f"{origin}/api/v1/images/upload",
        files={"file": (path.name, content or path.read_bytes())},
        data={"bucket": "photos"},
        headers={"Authorization": f"Bearer {token}"},
    ).raise_for_status()


def upload(browser: Any, path: Path) -> None:
    """Upload an image on the page, and wait for its result."""
    element = browser.find_element("css selector", "image-upload")
    field = element.shadow_root.find_element("css selector", "input")
    browser.execute_script("arguments[0].hidden = false", field)  # the driver needs to see it
    field.send_keys(str(path))
    browser.execute_script("arguments[0].hidden = true", field)
    while not browser.find_elements("css selector", ".card"):
        time.sleep(0.1)
    time.sleep(1)  # until its image has loaded


def save(browser: Any, name: str, height: int) -> None:
    """Store a screenshot of the top of the page in the folder of pictures."""
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
    image.convert("RGB").save(DOCS / "_static" / f"{name}.webp", "WEBP", quality=80, method=6)


if __name__ == "__main__":
    main()
