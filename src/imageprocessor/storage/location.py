"""From a storage's location, as text, to the storage."""

from __future__ import annotations

from pathlib import Path

from imageprocessor.errors import SettingsError
from imageprocessor.storage.local import LocalStorage
from imageprocessor.storage.memory import MemoryStorage
from imageprocessor.storage.protocol import Storage


def open_storage(location: str) -> Storage:
    """Open ``local:///absolute/path`` (made if missing; not percent-decoded) or ``memory://`` (a new, empty one).

    >>> store = open_storage("memory://")
    >>> store.exists("avatars/1.webp")
    False

    Raises:
        SettingsError: *location* has neither form.
        StorageUnavailableError: The directory cannot be made or opened.
    """
    if location == "memory://":
        return MemoryStorage()
    scheme, _, path = location.partition("://")
    if scheme == "local" and path.startswith("/"):
        return LocalStorage(Path(path))
    raise SettingsError(
        f"{location!r} is not a storage this version can open: use 'local:///absolute/path' or 'memory://'."
    )
