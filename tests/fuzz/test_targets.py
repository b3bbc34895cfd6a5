"""The fuzzers' checks hold for the seeds, their beginnings and 600 mutations of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.fuzz.seeds import make_operations, make_seeds
from tests.fuzz.targets import (
    check_containers,
    check_operations,
    check_process,
    check_strip,
    check_validate,
)

SEEDS = make_seeds()
checks = pytest.mark.parametrize(
    "check", [check_validate, check_containers, check_strip, check_process]
)


@checks
def test_checks_hold_for_seeds_and_their_beginnings(check: Callable[[bytes], None]) -> None:
    for seed in SEEDS:
        for length in range(0, len(seed) + 1, 1 + len(seed) // 40):
            check(seed[:length])


@checks
def test_checks_hold_for_mutations(check: Callable[[bytes], None]) -> None:
    rng = random.Random(0)
    for _ in range(600):
        check(mutate(rng.choice(SEEDS), rng))


def test_operations_hold_for_mutations() -> None:
    rng = random.Random(0)
    seeds = make_operations()
    for _ in range(600):
        check_operations(mutate(rng.choice(seeds), rng))


def mutate(seed: bytes, rng: random.Random) -> bytes:
    """Return the seed with flipped bits, parts of other seeds, repeated or replaced parts."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                other = rng.choice(SEEDS)
                data[place:place] = other[rng.randrange(len(other)) :][:400]
            case 2:
                data[place:place] = data[place : place + 64]
            case _:
                data[place : place + 4] = rng.choice(
                    (b"", bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff")
                )
    return bytes(data)
