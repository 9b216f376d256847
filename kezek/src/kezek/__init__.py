"""Client of the Kezek compute platform: `Client` is the SDK, `kezek` the command line."""

from __future__ import annotations

from kezek.bundle import Bundle, pack
from kezek.client import VERSION, Client
from kezek.errors import (
    ApiError,
    ConfigError,
    DigestMismatchError,
    KezekError,
    NetworkError,
    ProtocolError,
    UsageFaultError,
)
from kezek.logs import LogPage, LogPlace
from kezek.model import Job, JobRequest
from kezek.register import ProductRequest

__version__ = VERSION

__all__ = [
    "ApiError",
    "Bundle",
    "Client",
    "ConfigError",
    "DigestMismatchError",
    "Job",
    "JobRequest",
    "KezekError",
    "LogPage",
    "LogPlace",
    "NetworkError",
    "ProductRequest",
    "ProtocolError",
    "UsageFaultError",
    "__version__",
    "pack",
]
