"""Explanations, operators' acts, windows and nodes out of service as tables and fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kezek.fields import Fields
from kezek.messages import Messages
from kezek.terminal import Cell

Pairs = list[tuple[str, Cell]]

ACT_HEADS = ("id", "kind", "about", "ends", "grounds")
WINDOW_HEADS = ("id", "kind", "nodes", "begins", "ends", "repeats", "grounds")
MOVED_HEADS = ("id", "told", "cause", "moved")
SERVICE_HEADS = ("node", "state", "begins", "grounds")


def why_pairs(found: Fields, messages: Messages) -> Pairs:
    """An explanation, field by field; what says nothing is left out."""
    reason = found.optional_inner("reason")
    pairs: Pairs = [("id", str(found.integer("job_id")))]
    if reason is None:
        return [*pairs, ("reason", messages.say("job.waits_for_nothing")), *_told(found, messages)]
    starts_by = found.optional_instant("starts_by")
    place = found.optional_integer("place")
    pairs.append(("reason", reason.text("text")))
    pairs.append(("ahead", "" if place is None else str(place - 1)))
    for ahead in found.objects("ahead"):
        job_id, rule = ahead.integer("job_id"), ahead.text("text")
        pairs.append(("ahead", messages.say("reason.WAITING_TURN", ahead=job_id, rule=rule)))
    pairs.append(("planned", "" if starts_by is None else messages.instant(starts_by)))
    expected = found.optional_inner("expected")
    pairs.append(("expected", "" if expected is None else _expected(expected, messages)))
    for change in found.objects("changes"):
        head = "change" if change.flag("is_now") else "change_possible"
        pairs.append((head, _change(change, messages)))
    pairs.extend(_told(found, messages))
    return [(head, cell) for head, cell in pairs if cell]


def _told(found: Fields, messages: Messages) -> Pairs:
    """The starts that a job was told, the newest first; of an older platform none."""
    starts = found.objects("starts_told") if "starts_told" in found.raw else ()
    return [("told", f"{messages.instant(one.instant('told_at'))}: {one.text('text')}") for one in starts]


def moved_rows(starts: Iterable[Fields], messages: Messages) -> list[Sequence[Cell]]:
    """Planned starts that moved as the rows of `MOVED_HEADS`."""
    return [
        (
            str(one.integer("job_id")),
            messages.instant(one.instant("told_at")),
            one.text("cause"),
            one.text("text"),
        )
        for one in starts
    ]


def _expected(found: Fields, messages: Messages) -> str:
    """An interval for a start, with what it was learned from."""
    span = {
        "begins": messages.instant(found.instant("from_at")),
        "ends": messages.instant(found.instant("to_at")),
    }
    if not found.flag("is_learned"):
        return messages.say("planning.expected_unlearned", **span)
    return messages.say(
        "planning.expected",
        **span,
        percent=found.integer("stated_percent"),
        starts=found.integer("learned_from"),
    )


def _change(found: Fields, messages: Messages) -> str:
    """A change of what was asked for; one of a kind that this client does not know is named."""
    match found.text("what"):
        case "gpus":
            return messages.say("planning.gpus", old=found.integer("old"), new=found.integer("new"))
        case "walltime_s":
            times = {name: messages.duration(found.integer(name)) for name in ("old", "new")}
            return messages.say("planning.walltime", **times)
        case "nodes":
            return messages.say("planning.nodes", old=found.integer("old"))
        case "flavor":
            return messages.say("planning.flavor", old=found.text("old"), new=found.text("new"))
        case other:
            return f"{other}: {found.raw.get('old')} → {found.raw.get('new')}"


def act_rows(acts: Iterable[Fields], messages: Messages) -> list[Sequence[Cell]]:
    """Operators' acts as the rows of `ACT_HEADS`."""
    return [
        (
            str(act.integer("id")),
            act.text("kind"),
            act.optional_text("queue") or str(act.optional_integer("job_id")),
            messages.instant(act.instant("expires_at")),
            act.text("reason"),
        )
        for act in acts
    ]


def window_rows(windows: Iterable[Fields], messages: Messages) -> list[Sequence[Cell]]:
    """Windows as the rows of `WINDOW_HEADS`."""
    return [
        (
            str(window.integer("id")),
            window.text("kind"),
            ", ".join(window.texts("nodes")),
            messages.instant(window.instant("from_at")),
            messages.instant(window.instant("to_at")),
            _repeats(window.optional_inner("repeats"), messages),
            window.optional_text("reason") or "",
        )
        for window in windows
    ]


def service_rows(nodes: Iterable[Fields], messages: Messages) -> list[Sequence[Cell]]:
    """Nodes as the rows of `SERVICE_HEADS`."""
    found: list[Sequence[Cell]] = []
    for node in nodes:
        drained_at = node.optional_instant("drained_at")
        since = "" if drained_at is None else messages.instant(drained_at)
        found.append(
            (
                node.text("name"),
                messages.named("node", node.text("state")),
                since,
                node.optional_text("reason") or "",
            )
        )
    return found


def _repeats(found: Fields | None, messages: Messages) -> str:
    """How a window recurs; empty for one that does not."""
    if found is None:
        return ""
    return messages.say(
        f"every.{found.text('every')}",
        interval=found.integer("interval"),
        zone=found.text("zone"),
        until=messages.instant(found.instant("until")),
    )
