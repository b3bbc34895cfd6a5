"""What a check returns: a finding with a verdict and a fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  #: it works, but for a risk that the operator should know
    WRONG = "wrong"  #: it does not work, or will lose something


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the doctor's report. No secret is ever in it."""

    name: str  #: of what was looked at
    verdict: Verdict
    found: str
    fix: str = ""  #: in words, or a command


def ok(name: str, found: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(name, Verdict.OK, found)


def warning(name: str, found: str, fix: str) -> Finding:
    """Return the finding of a risk."""
    return Finding(name, Verdict.WARNING, found, fix)


def wrong(name: str, found: str, fix: str) -> Finding:
    """Return the finding of a fault."""
    return Finding(name, Verdict.WRONG, found, fix)
