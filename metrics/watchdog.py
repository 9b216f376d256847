"""Calls that may hang for ever, made where they can be left behind.

A call into a wedged driver can neither be interrupted nor killed within the process. So it runs in a daemon
thread; who waits gives up at a deadline, and no second call is made on the same lane before the first has
come back: a hung device costs one thread, not one per scrape.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


class Lane:
    """At most one call at a time; abandons, and never overlaps, a call that hangs.

    Args:
        name: What the calls are about; names the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    def start(self, body: Callable[[], _T]) -> Future[_T] | None:
        """Start a call.

        Args:
            body: The call; its exception is handed over with the future.

        Returns:
            The future to wait on, or None while the last call has not come back.
        """
        if self._thread is not None and self._thread.is_alive():
            return None
        future: Future[_T] = Future()
        # A daemon: a hung driver call must not keep the process from ending.
        self._thread = threading.Thread(target=_run, args=(body, future), name=self._name, daemon=True)
        self._thread.start()
        return future


def _run(body: Callable[[], _T], future: Future[_T]) -> None:
    try:
        result = body()
    except BaseException as error:  # noqa: BLE001 (the edge of a thread: who waits gets the exception)
        future.set_exception(error)
    else:
        future.set_result(result)
