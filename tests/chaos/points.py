"""The points at which a service can crash: before or after which function the process ends.

Or before which function it hangs.
"""

from __future__ import annotations

BEFORE, AFTER, HANG = "before", "after", "hang"
AFTER_RESULT = "after it returned something"
WORKER = "imageprocessor.queue.workers.worker"
UPLOAD_POINTS = {
    "small file stored": (AFTER, "imageprocessor.storage.local", "LocalStorage.put"),
    "file written": (AFTER, "imageprocessor.queue.incoming", "IncomingFile.write_block"),
    "file renamed": (AFTER, "imageprocessor.storage.local", "LocalStorage.adopt"),
    "row inserted": (AFTER, "imageprocessor.queue.jobs.job_store", "insert_job"),
    "committed": (
        BEFORE,
        "imageprocessor.queue.dispatch.dispatcher",
        "EmbeddedDispatcher.dispatch",
    ),
    "published": (AFTER, "imageprocessor.queue.dispatch.dispatcher", "EmbeddedDispatcher.dispatch"),
}
WORK_POINTS = {
    "claim committed": (AFTER_RESULT, WORKER, "claim_next"),
    "claimed": (BEFORE, "imageprocessor.queue.attempts", "load_source"),
    "decoded": (BEFORE, "imageprocessor.queue.attempts", "_store_variants"),
    "variant stored": (AFTER, "imageprocessor.storage.local", "LocalStorage._put"),
    "handed over": (BEFORE, WORKER, "finish_attempt"),
    "all stored": (BEFORE, "imageprocessor.queue.attempts", "_complete"),
    "finished": (BEFORE, "imageprocessor.queue.attempts", "_delete_source"),
    "upload removed": (AFTER, "imageprocessor.queue.attempts", "_delete_source"),
}
#: Reached on the second job, while the finish of the first is pending.
OVERLAP_POINTS = {
    "next job claimed": (AFTER_RESULT, WORKER, "claim_next"),
    "next job decoded": (AFTER_RESULT, WORKER, "process_job"),
}
HANG_POINTS = {"finish hangs": (HANG, WORKER, "finish_attempt")}
DELETION_POINTS = {
    "deletion marked": (BEFORE, "imageprocessor.queue.images", "purge"),
    "variant deleted": (AFTER, "imageprocessor.storage.local", "LocalStorage.delete"),
    "row left": (BEFORE, "imageprocessor.queue.jobs.job_store", "remove"),
}
POINTS = UPLOAD_POINTS | WORK_POINTS | OVERLAP_POINTS | HANG_POINTS | DELETION_POINTS
