"""The job as a worker does it, in its own process; the second argument is the number of threads."""

from __future__ import annotations

import sys
from pathlib import Path

from answering import answer

import imageprocessor
from imageprocessor.queue.process_memory import keep_memory
from imageprocessor.settings import Settings

keep_memory(Settings().job_memory_limit_mb)
data = Path(sys.argv[1]).read_bytes()
threads = int(sys.argv[2]) if len(sys.argv) > 2 else None
answer(
    lambda: sum(
        made.size_bytes for made in imageprocessor.process(data, threads=threads).variants.values()
    )
)
