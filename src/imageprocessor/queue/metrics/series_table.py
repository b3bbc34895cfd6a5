"""Where the numbers of each series are in every slot: a file that only grows.

Its first line is a random id. Each other line has the number of numbers, the metric's name and the
values of its labels, separated by tabs; its numbers follow those of the line before.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

ID_BYTES = 8  #: a slot begins with the id, instead of a number

Series = tuple[str, ...]  #: a metric's name and the values of its labels


class SeriesTable:
    """The table at *path*, which is created if it is missing.

    Raises:
        OSError: It cannot be read or created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.table_id = b""
        #: Where the numbers of a series begin. One whose histogram has got other buckets is
        #: another series, so the number of its numbers is a part of the key.
        self.places: dict[tuple[Series, int], int] = {}
        self.end = 1  #: of the numbers in use; the first place is that of the id
        if path.exists():
            self._parse(path.read_bytes())
        if not self.table_id:
            self._append(None, secrets.token_hex(ID_BYTES // 2))

    def find_or_add(self, series: Series, count: int) -> int:
        """Return where the *count* numbers of *series* begin, which is added if it is new.

        Raises:
            OSError: The file cannot be written.
        """
        key = (series, count)
        if key not in self.places:
            self._append(key, "\t".join((str(count), *series)))
        return self.places[key]

    def _append(self, key: tuple[Series, int] | None, line: str) -> None:
        """Append the line of a series, or the id if *key* is None, unless another process did."""
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            data = file.read()
            self._parse(data)
            if self.table_id if key is None else key in self.places:
                return
            whole = data[: data.rfind(b"\n") + 1]  # without a line that was not written to its end
            file.seek(len(whole))
            file.write(f"{line}\n".encode())
            file.truncate()
            file.flush()
            # After a power cut, other series must not get the numbers of this one.
            os.fsync(file.fileno())
            self._parse(whole + f"{line}\n".encode())

    def _parse(self, data: bytes) -> None:
        *whole_lines, _ = data.decode().split("\n")
        table_id, *lines = whole_lines or [""]
        self.table_id = table_id.encode()
        self.end = 1
        for line in lines:
            count, *series = line.split("\t")
            self.places[tuple(series), int(count)] = self.end
            self.end += int(count)
