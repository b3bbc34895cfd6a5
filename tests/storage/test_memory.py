from __future__ import annotations

import pytest

from imageprocessor.storage.memory import MemoryStorage
from tests.storage.contract import StorageContract


class TestMemoryStorage(StorageContract):
    @pytest.fixture
    def store(self) -> MemoryStorage:
        return MemoryStorage()
