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

from PIL import Image

from imageprocessor.settings import Settings
from imageprocessor.tokens import sign_token
from tests.servers import find_free_port, run_server
from tests.servers.browser import open_browser

DOCS = Path(__file__).parent
JWT_KEY = "a key that signs the tokens of a screenshot and nothing else"
WIDTH, HEIGHT = 1000, 1520


def main() -> None:
    """Run the service, and take the screenshots."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), find_free_port()
        environment = os.environ | {"DATA_DIR": name, "JWT_SECRET_KEY": JWT_KEY}
        command = [sys.executable, "-m", "imageprocessor", "serve", "--port", str(port)]
        settings = Settings.model_validate({"jwt_secret_key": JWT_KEY})
        token = sign_token(settings, "upload-page")
        with (
            run_server(command, port, folder / "serve.log", env=environment),
            open_browser(folder / "profile") as browser,
        ):
            browser.get(f"http://127.0.0.1:{port}/upload#token={token}")
            upload(browser, DOCS / "photo.jpg")
            save(browser, DOCS / "_static" / "upload-page.webp")


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


def save(browser: Any, path: Path) -> None:
    """Store a screenshot of the page as *path*."""
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
    image.convert("RGB").save(path, "WEBP", quality=80, method=6)


if __name__ == "__main__":
    main()
