"""No tests: Locust replaces sockets and threads wherever it is imported."""

from __future__ import annotations

collect_ignore = ["locustfile.py"]
