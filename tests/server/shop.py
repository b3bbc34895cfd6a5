"""A page of another site with <image-upload>, and what happens on it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

from imageprocessor.server.routes.upload_page import WIDGET

IN_DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (letter) => letter.charCodeAt(0));
const moved = new DataTransfer();
moved.items.add(new File([bytes], arguments[2], { type: "image/jpeg" }));
"""
DROP = f"""{IN_DROP}
const options = {{ dataTransfer: moved, bubbles: true, cancelable: true }};
arguments[0].shadowRoot.querySelector(".drop").dispatchEvent(new DragEvent("drop", options));
"""
FORM = """<!doctype html><html lang="en"><title>A shop</title>
<script type="module" src="{module}"></script>
<form>
<image-upload ticket-url="/ticket" bucket="photos" name="photo" required></image-upload>
</form>
<script>
window.told = [];
addEventListener("upload-done", (event) => told.push(event.detail.result.image_id));
addEventListener("upload-error", (event) => told.push(event.detail.problem.code));
</script>"""


@contextmanager
def serve_shop(api: str, token: str, **fields: Any) -> Iterator[str]:
    """Serve a page of another site, whose own backend asks for tickets with *fields*."""

    class Shop(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            module = f"{api}/upload/{WIDGET}"
            self.answer("text/html", FORM.replace("{module}", module).encode())

        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps({"bucket": wanted["bucket"], **fields}).encode()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            with urlopen(Request(f"{api}/api/v1/uploads", body, headers)) as ticket:
                self.answer("application/json", ticket.read())

        def answer(self, media_type: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def drop(browser: Any, element: Any, content: bytes) -> None:
    browser.execute_script(DROP, element, base64.b64encode(content).decode(), "dropped.jpg")
