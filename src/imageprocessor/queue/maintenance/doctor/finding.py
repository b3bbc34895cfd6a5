"""The result of a check: a finding with a verdict and a fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"  #: it works, but with a risk that the operator should know
    WRONG = "wrong"  #: it does not work, or will lose something


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the doctor's report. No secret is ever in it."""

    name: str  #: of what was checked
    verdict: Verdict
    found: str
    fix: str = ""  #: in words, or a command


def ok(name: str, found: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(name, Verdict.OK, found)


def warning(name: str, found: str, fix: str) -> Finding:
    """Return a finding that warns of a risk."""
    return Finding(name, Verdict.WARNING, found, fix)


def wrong(name: str, found: str, fix: str) -> Finding:
    """Return a finding that reports a fault."""
    return Finding(name, Verdict.WRONG, found, fix)
