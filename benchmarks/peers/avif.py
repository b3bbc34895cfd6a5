"""An AVIF as a worker makes it, in its own process; the second argument is the quality."""

from __future__ import annotations

import sys
from pathlib import Path

from answering import answer

import imageprocessor
from imageprocessor.queue.process_memory import keep_memory
from imageprocessor.settings import Settings

keep_memory(Settings().job_memory_limit_mb)
data, quality = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
answer(lambda: imageprocessor.transform(data, f"w_1200,q_{quality}", format="avif").size_bytes)
