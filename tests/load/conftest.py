"""Keeps pytest from importing Locust, which replaces sockets and threads."""

from __future__ import annotations

collect_ignore = ["locustfile.py"]
