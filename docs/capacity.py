"""How many images a day a site can process, and which resource is full first.

`python docs/capacity.py` prints the tables of capacity.md.

Change a number and run it again. The image is a JPEG of 12 MP and 1.97 MB, processed into the four
default sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

DAY_SECONDS = 86_400
START = 10_000  #: images a day


@dataclass(frozen=True, slots=True)
class Image:
    """The cost of one image.

    Measured by `python -m benchmarks.costs`, counted in the code, or assumed.
    """

    job_cpu_seconds: float = 0.85  #: measured: worker and supervisor
    upload_cpu_seconds: float = 0.0114  #: measured
    poll_cpu_seconds: float = 0.0009  #: measured
    polls: float = 5  #: assumed: how often a client checks its job's status
    commits: float = 2  #: counted: accepted, completed; a claim is not flushed
    redis_commands: float = 13.2  #: measured, with Celery's own
    #: counted: PUT and DELETE under one prefix of S3, which limits GET separately
    staging_requests: float = 2
    upload_bytes: float = 1.97e6  #: measured
    variant_bytes: float = 0.81e6  #: measured


@dataclass(frozen=True, slots=True)
class Site:
    """The resources that are available each second."""

    machines: int
    cores: int  #: of each machine
    spread: bool = False  #: PostgreSQL, S3 and Celery instead of SQLite and the local disk
    busy_share: float = 0.8  #: assumed: the rest is for the operating system and as a reserve
    busiest_hour: float = 3  #: assumed: as a multiple of the day's mean
    sqlite_commits: float = 700  #: measured, on a disk that flushes in 1.2 ms
    postgres_commits: float = 2_000  #: assumed
    redis_commands: float = 100_000  #: Redis' documentation: without pipelining, on common hardware
    s3_requests: float = 3_500  #: AWS' documentation: PUT and DELETE, per prefix
    network_bytes: float = 125e6  #: assumed: 1 Gbit/s per machine, in each direction
    disk_bytes: float = 200e6  #: assumed: the write rate of one disk


def list_uses(image: Image, site: Site) -> dict[str, float]:
    """Return the share of each resource that one image per second uses."""
    cpu = image.job_cpu_seconds + image.upload_cpu_seconds + image.polls * image.poll_cpu_seconds
    uses = {"CPU": cpu / (site.machines * site.cores * site.busy_share)}
    received = image.upload_bytes
    if site.spread:
        received += image.upload_bytes  # a worker fetches it from S3
        uses |= {
            "PostgreSQL": image.commits / site.postgres_commits,
            "Redis": image.redis_commands / site.redis_commands,
            "S3": image.staging_requests / site.s3_requests,
        }
    else:
        uses |= {
            "SQLite": image.commits / site.sqlite_commits,
            "disk": (image.upload_bytes + image.variant_bytes) / site.disk_bytes,
        }
    return uses | {"network": received / (site.machines * site.network_bytes)}


def images_a_day(image: Image, site: Site) -> float:
    """Return how many images a day leave no backlog after any hour, even the busiest.

    >>> round(images_a_day(
    ...     Image(job_cpu_seconds=1, upload_cpu_seconds=0, polls=0), Site(1, 1, busy_share=1)
    ... ))
    28800
    """
    return DAY_SECONDS / site.busiest_hour / max(list_uses(image, site).values())


def cores_for(image: Image, site: Site, images: float) -> float:
    """Return the cores that *images* a day need in the busiest hour."""
    a_second = images * site.busiest_hour / DAY_SECONDS
    return a_second * list_uses(image, Site(1, 1, busy_share=site.busy_share))["CPU"]


def describe_sites(image: Image) -> str:
    """Return a table of the capacity of sites of several sizes."""
    sites = {
        "one core": Site(1, 1),
        "one machine, 2 cores": Site(1, 2),
        "one machine, 8 cores": Site(1, 8),
        "one machine, 32 cores": Site(1, 32),
        "ten machines, 8 cores": Site(10, 8, spread=True),
        "ten machines, 32 cores": Site(10, 32, spread=True),
    }
    rows = []
    for name, site in sites.items():
        images = round(images_a_day(image, site), -3)
        (first, _), (second, share), *_ = rank(list_uses(image, site))
        rows.append((name, f"{images:,.0f}", first, f"{second}, {share:.0%}"))
    return table(("Site", "Images a day", "Full first", "Next, and how full it is then"), rows)


def describe_growth(image: Image) -> str:
    """Return a table of what a growing load needs, on one machine and on as many as it takes."""
    rows = []
    for times in (1, 10, 100, 1000, 10_000):
        images = START * times
        cores = cores_for(image, Site(1, 1), images)
        machines = ceil(cores / 8)
        a_second = images * Site(1, 1).busiest_hour / DAY_SECONDS
        one = list_uses(image, Site(1, 8))
        many = list_uses(image, Site(max(2, machines), 8, spread=True))
        uses = one["SQLite"], many["PostgreSQL"], many["Redis"], many["S3"]
        shares = [f"{use * a_second:.1%}" for use in uses]
        rows.append((f"{times} ×, {images:,} a day", f"{cores:.1f}", str(machines), *shares))
    return table(("Load", "Cores", "Machines of 8", "SQLite", "PostgreSQL", "Redis", "S3"), rows)


def rank(uses: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the resources, fullest first, and how full each is when the first one is full."""
    fullest = max(uses.values())
    ranked = sorted(uses.items(), key=lambda item: -item[1])
    return [(name, use / fullest) for name, use in ranked]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(describe_sites(Image()), describe_growth(Image()), sep="\n\n")  # noqa: T201 - its purpose
