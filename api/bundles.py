"""Uploads are checked before they are kept, by the rules of the agents that will unpack them."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from api.errors import ApiError, ErrorCode
from scheduler.agent.bundles import BundleStore
from scheduler.agent.refusal import RefusalError
from scheduler.jobs import BundleRefusedError


def check(data: bytes) -> None:
    """Refuse now what an agent would refuse when the job starts.

    Raises:
        BundleRefusedError: nothing in it.
        ApiError: BODY_TOO_LARGE or BUNDLE_INVALID.
    """
    if not data:
        raise BundleRefusedError(0)
    with tempfile.TemporaryDirectory(prefix="kezek-bundle-") as folder:
        try:
            BundleStore(Path(folder)).put(hashlib.sha256(data).hexdigest(), data)
        except RefusalError as error:
            raise ApiError(ErrorCode(error.code.value), str(error)) from error
