"""`imageprocessor`, but failed webhooks are tried again within a second, not within hours."""

from __future__ import annotations

import sys
from datetime import timedelta

from imageprocessor.cli import main
from imageprocessor.queue.events import webhook_sender
from imageprocessor.queue.jobs.webhook_schedule import Schedule

HURRIED = Schedule(
    pauses=(timedelta(seconds=0.3),) * 30,  # each kill may cost a try
    shortest_probe_pause=timedelta(seconds=0.1),
    longest_probe_pause=timedelta(seconds=0.3),
    timeout_seconds=1.0,
    claim=timedelta(seconds=5),
)

if __name__ == "__main__":  # worker processes import this module again, but send nothing
    webhook_sender.Schedule = lambda: HURRIED  # type: ignore[assignment,attr-defined,misc]
    sys.exit(main())  # type: ignore[func-returns-value]
