from __future__ import annotations

from pkgutil import resolve_name

import pytest

import imageprocessor as ip
from tests.heif import KINDS, LIMITS, heif, tile


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
def test_it_decodes_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heif("AVIF", tile("AVIF"))
    given = []
    open_decoder = resolve_name("PIL._avif:AvifDecoder")

    def capture(*arguments: object) -> object:
        given.append(arguments)
        return open_decoder(*arguments)

    monkeypatch.setattr("PIL._avif.AvifDecoder", capture)
    ip.process(data, limits=LIMITS)
    [(_, _, threads)] = given
    assert threads == 1
