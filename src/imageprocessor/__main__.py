"""Makes ``python -m imageprocessor`` the same as the command ``imageprocessor``."""

from __future__ import annotations

from imageprocessor.cli import main

if __name__ == "__main__":
    main()
