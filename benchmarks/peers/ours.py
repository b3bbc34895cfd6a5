"""The job as a worker does it, in a process of its own as the peers are."""

from __future__ import annotations

import sys
from pathlib import Path

from answering import answer

import imageprocessor

data = Path(sys.argv[1]).read_bytes()
answer(lambda: sum(variant.size_bytes for variant in imageprocessor.process(data).variants.values()))
