"""No tests are here.

Locust, which reads the file, replaces sockets and threads wherever it is imported.
"""

from __future__ import annotations

collect_ignore = ["locustfile.py"]
