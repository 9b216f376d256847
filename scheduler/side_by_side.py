"""Calls about many attempts to many nodes side by side; a node that does not answer keeps back its own alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from scheduler.dispatch.executor import ExecutorError, StaleEpochError, UnreachableError
from scheduler.launch import Leader
from scheduler.model import AttemptId

T = TypeVar("T")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a node said to a call about an attempt, or why it said nothing of use."""

    node: str
    attempt_id: AttemptId
    result: T | ExecutorError


def call_nodes(
    leader: Leader, asked: Mapping[str, Sequence[AttemptId]], call: Callable[[str, AttemptId], T]
) -> Iterator[list[Answer[T]]]:
    """Make a call for each attempt of each node: nodes side by side, a node's attempts one after the other.

    Args:
        leader: the leading scheduler; its pool makes the calls. Call from outside of that pool.
        asked: attempts by node.
        call: given a node and an attempt; idempotent.

    Yields:
        The answers that have come meanwhile, all of a node's together, so that whoever records them makes the
        larger groups the longer it takes. One that does not answer is asked no more: what is behind counts as
        unanswered too, or each attempt would cost a timeout.

    Raises:
        StaleEpochError: of the executor: another process is the scheduler.
    """
    open_calls = [leader.pool.submit(_call_node, node, attempts, call) for node, attempts in asked.items()]
    try:
        while open_calls:
            done, _ = wait(open_calls, return_when=FIRST_COMPLETED)
            ended: list[Future[list[Answer[T]]]] = [one for one in open_calls if one in done]
            open_calls = [one for one in open_calls if one not in done]
            yield [answer for one in ended for answer in one.result()]
    finally:
        for one in open_calls:
            one.cancel()


def _call_node(
    node: str, attempts: Sequence[AttemptId], call: Callable[[str, AttemptId], T]
) -> list[Answer[T]]:
    answers: list[Answer[T]] = []
    for place, attempt_id in enumerate(attempts):
        try:
            answers.append(Answer(node, attempt_id, call(node, attempt_id)))
        except StaleEpochError:
            raise
        except UnreachableError as error:
            return [*answers, *(Answer(node, behind, error) for behind in attempts[place:])]
        except ExecutorError as error:
            answers.append(Answer(node, attempt_id, error))
    return answers


def log_failures(answers: Sequence[Answer[T]]) -> None:
    """Log what nodes did not do, a line for each node and reason, however many attempts it is about."""
    behind: dict[str, list[AttemptId]] = {}
    for answer in answers:
        if isinstance(answer.result, ExecutorError):
            behind.setdefault(str(answer.result), []).append(answer.attempt_id)
    for reason, attempts in behind.items():
        _logger.warning("%s; trying again for attempts %s", reason, ", ".join(attempts))
