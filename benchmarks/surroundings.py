"""The machine and the versions that a benchmark ran with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from imageprocessor.core.codecs import list_libraries

CPU_TABLE = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """Return the processor, the system, the versions and the day, each as text."""
    system = f"{platform.system()} {platform.machine()}"
    libraries = [f"{name} {number}" for name, number in list_libraries().items()]
    packages = [f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "sqlalchemy")]
    return {
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{os.cpu_count()} × {_processor()}",
        "system": f"{system}, Python {platform.python_version()}",
        "engine": ", ".join(libraries),
        "service": ", ".join(packages),
    }


def _processor() -> str:
    lines = CPU_TABLE.read_text(encoding="utf-8").splitlines() if CPU_TABLE.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
