"""The log of a rank, up to a cap. Standard library only."""

from __future__ import annotations

import os


class Log:
    """The rank's output up to a cap; beyond it one line says so and the rest is dropped."""

    def __init__(self, path: str, cap_bytes: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._left_bytes = cap_bytes
        self._cap_bytes = cap_bytes
        self._is_cut = False

    def write(self, data: bytes) -> None:
        """Append what fits."""
        if self._is_cut:
            return
        piece = data[: self._left_bytes]
        self._left_bytes -= len(piece)
        self._put(piece)
        if len(piece) < len(data):
            self._is_cut = True
            self._put(
                f"\n[kezek: the log is cut at {self._cap_bytes} bytes; later lines are lost]\n".encode()
            )

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._is_cut = True  # a full disk must not stop the rank; what is written stays
