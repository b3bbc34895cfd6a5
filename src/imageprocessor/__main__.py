"""``python -m imageprocessor`` is the command ``imageprocessor``."""

from __future__ import annotations

from imageprocessor.cli import main

if __name__ == "__main__":
    main()
