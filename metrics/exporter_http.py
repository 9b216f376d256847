"""The exporter's page of metrics."""

from __future__ import annotations

from prometheus_client.exposition import generate_latest

from metrics.exporter import CollectionBusyError, Exporter, GpuCollector, collection_limit_s
from metrics.metrics_http import MetricsServer, ScrapeBusyError


class ExporterServer(MetricsServer):
    """Serves one exporter.

    Args:
        address: Host and port, port 0 for a free one; ``server_port`` tells which.
        exporter: What collects.
        is_simulated: The landing page says so.
        token: What ``/metrics`` asks for, None for nothing.
    """

    def __init__(
        self, address: tuple[str, int], exporter: Exporter, *, is_simulated: bool, token: str | None = None
    ) -> None:
        about = "Source: simulated GPUs." if is_simulated else "Source: NVML."
        super().__init__(address, title="Kezek node exporter", about=about, token=token)
        self.is_simulated = is_simulated
        self._exporter = exporter

    def metrics(self, scrape_timeout: str | None) -> bytes:
        """One collection.

        Raises:
            ScrapeBusyError: The collection that this scrape was to share did not end in time.
        """
        try:
            return generate_latest(GpuCollector(self._exporter, collection_limit_s(scrape_timeout)))
        except CollectionBusyError as error:
            raise ScrapeBusyError(str(error)) from error
