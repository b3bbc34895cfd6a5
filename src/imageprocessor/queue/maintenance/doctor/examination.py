"""All checks, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from imageprocessor.queue.maintenance.doctor.broker import check_queue
from imageprocessor.queue.maintenance.doctor.codecs import check_codecs, check_watermarks
from imageprocessor.queue.maintenance.doctor.configuration import check_keys, check_settings
from imageprocessor.queue.maintenance.doctor.database import check_database
from imageprocessor.queue.maintenance.doctor.finding import Finding
from imageprocessor.queue.maintenance.doctor.host import (
    check_clock,
    check_memory,
    check_open_files,
    check_space,
)
from imageprocessor.queue.maintenance.doctor.references import read_clocks
from imageprocessor.queue.maintenance.doctor.storage import check_storage
from imageprocessor.queue.maintenance.doctor.webhooks import check_webhooks
from imageprocessor.settings import Settings


def examine(
    settings: Settings, misspelt: Mapping[str, str], *, integrity: bool = False
) -> Iterator[Finding]:
    """Yield the findings of all checks. The service may run meanwhile.

    *misspelt* maps names in ``.env`` to the settings that they resemble. *integrity*: also check a
    whole SQLite file.
    """
    yield from check_database(settings, integrity=integrity)
    yield from check_storage(settings)
    yield from check_queue(settings)
    yield from check_codecs(settings)
    yield from check_watermarks(settings)
    yield from check_clock(read_clocks(settings))
    yield from check_space(settings)
    yield check_memory(settings)
    yield check_open_files()
    yield from check_keys(settings)
    yield from check_settings(settings, misspelt)
    yield from check_webhooks(settings)
