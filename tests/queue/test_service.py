from __future__ import annotations

from pathlib import Path

import pytest

from imageprocessor.queue import service
from imageprocessor.settings import Settings


def test_old_sqlite_warning_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "has_wal_reset_bug", lambda _: True)
    with service.open_service(Settings(data_dir=tmp_path)):
        assert "pip install pysqlite3" in capsys.readouterr().out
