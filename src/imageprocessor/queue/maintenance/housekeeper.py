"""What one process of each host does beside its work: it sweeps, and sends webhooks."""

from __future__ import annotations

import threading

from imageprocessor.queue.events.webhook_sender import WebhookSender
from imageprocessor.queue.maintenance.sweeper import Sweeper
from imageprocessor.queue.service import Service


class Housekeeper:
    """Runs the sweeper and the sender of webhooks until :meth:`stop` is called."""

    def __init__(self, service: Service) -> None:
        self._sweeper = Sweeper(service)
        self._sender = WebhookSender(service)

    def run(self) -> None:
        """Run both until stopped. On stop, a listing and running tries have 5 s to end."""
        sending = threading.Thread(target=self._sender.run, name="webhook sender", daemon=True)
        sending.start()
        self._sweeper.run()
        sending.join()

    def stop(self) -> None:
        """Ask :meth:`run` to end. May be called from any thread."""
        self._sender.stop()
        self._sweeper.stop()
