"""Every metric: its name, meaning, labels and buckets.

The table in docs/metrics.md is generated from this module. Every label has few values: routes are
templates, and no label has an id, a bucket or a user.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "imageprocessor_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, by its name without PREFIX, and without the suffixes that its kind adds."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


class Gauge(Metric):
    """The present state of something."""


class Counter(Metric):
    """How often something has happened: one number."""

    number_count = 1


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """How often something has happened, by its size; *bounds* are the inclusive upper ones.

    Its numbers are the sum of the sizes, and how many there were up to each bound, and above.
    """

    bounds: tuple[float, ...] = ()

    @property
    def number_count(self) -> int:
        """How many numbers there are."""
        return len(self.bounds) + 2


#: Those that OpenTelemetry recommends for HTTP.
REQUEST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
JOB_BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
BYTE_BOUNDS = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)

REQUESTS = Counter(
    "http_requests",
    "HTTP requests. `route` is the template of the path, or `other`; `method` is `other` if it is "
    "not a common one; `status` is `0` if the client left before the response.",
    ("method", "route", "status"),
)
REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds",
    "Time until the response was sent, including the time that a client asked to wait.",
    ("method", "route"),
    REQUEST_BOUNDS,
)
UPLOADS = Counter(
    "uploads",
    "Uploaded files: `accepted`, `repeated` (by an Idempotency-Key), `refused`, `rate_limited`, or "
    "`failed` because a part of the service was unavailable. A batch that is refused as a whole "
    "counts once.",
    ("outcome",),
)
UPLOAD_BYTES = Histogram("upload_bytes", "Size of accepted files.", bounds=BYTE_BOUNDS)
JOBS = Counter(
    "jobs",
    "Attempts of jobs: `completed`, `retrying` or `failed`. `code` is that of the error.",
    ("outcome", "code"),
)
JOB_SECONDS = Histogram(
    "job_duration_seconds", "Time of attempts that completed their job.", bounds=JOB_BOUNDS
)
STAGE_SECONDS = Histogram(
    "stage_duration_seconds",
    "Time of each part of an attempt: `load` the upload, the steps of the processing, `store` the "
    "variants, `complete` the row.",
    ("stage",),
    STEP_BOUNDS,
)
DELIVERIES = Counter(
    "deliveries", "Tries to send a webhook: `delivered`, `retrying` or `failed`.", ("outcome",)
)
STORAGE_SECONDS = Histogram(
    "storage_operation_seconds",
    "Time of each operation on the storage of images or of waiting uploads. `put_all` stores the "
    "files of a batch, or of an image.",
    ("backend", "operation"),
    STEP_BOUNDS,
)
#: What processes count, in the order in which they are shown.
COUNTED: tuple[Counter | Histogram, ...] = (
    REQUESTS,
    REQUEST_SECONDS,
    UPLOADS,
    UPLOAD_BYTES,
    JOBS,
    JOB_SECONDS,
    STAGE_SECONDS,
    DELIVERIES,
    STORAGE_SECONDS,
)

BUILD = Gauge("build_info", "Always 1; `version` is that of this package.", ("version",))
DATABASE_UP = Gauge(
    "database_up", "1 if the database answers; 0: all metrics that it has are missing."
)
QUEUE_JOBS = Gauge("queue_jobs", "Jobs in each status.", ("status",))
OLDEST_OPEN_JOB = Gauge(
    "oldest_open_job_seconds", "Age of the oldest job that has not ended, or 0."
)
WORKERS = Gauge(
    "workers", "Worker processes that can take jobs; without Celery, those of this host."
)
PAUSED = Gauge("paused", "1 while the workers are paused, and no job begins; else 0.")
WAITING_DELIVERIES = Gauge("waiting_deliveries", "Webhooks that wait to be sent.")
OLDEST_WAITING_DELIVERY = Gauge(
    "oldest_waiting_delivery_seconds", "Age of the oldest of these, or 0."
)
ENDPOINTS = Gauge("webhook_endpoints", "Webhook endpoints in each state.", ("state",))
EVENT_LAG = Gauge("event_lag_seconds", "Time by which the feed of events is late.")
DISK_FREE = Gauge("disk_free_bytes", "Free space of DATA_DIR and STORAGE_PATH.", ("volume",))
DISK_SIZE = Gauge("disk_size_bytes", "Size of the same file systems.", ("volume",))
#: What is read at each scrape: the same in every process of a host.
STATE: tuple[Gauge, ...] = (
    BUILD,
    DATABASE_UP,
    QUEUE_JOBS,
    OLDEST_OPEN_JOB,
    WORKERS,
    PAUSED,
    WAITING_DELIVERIES,
    OLDEST_WAITING_DELIVERY,
    ENDPOINTS,
    EVENT_LAG,
    DISK_FREE,
    DISK_SIZE,
)
