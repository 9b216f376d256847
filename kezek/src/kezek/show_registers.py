"""How dossiers, shares and reports look in a terminal: rows and fields, no input or output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kezek.fields import Fields
from kezek.messages import Messages
from kezek.terminal import Cell

Rows = list[Sequence[Cell]]
Pairs = list[tuple[str, Cell]]

DOSSIER_HEADS = ("slug", "name", "kind", "opened")
STEP_HEADS = ("register_step", "done", "next")
CRITERION_HEADS = ("criterion", "holds")
DOCUMENT_HEADS = ("id", "document", "number", "issued_on", "expires_on")
EXPIRY_HEADS = ("slug", "document", "number", "expires_on", "days_left", "urgency", "renew_by")
CHECK_HEADS = ("slug", "eligible", "missing", "checked_on", "check_due")
PAYMENT_HEADS = ("contract", "number", "party", "is_foreign", "paid_on", "amount", "currency", "purpose")
REPORT_HEADS = ("kind", "period", "as_of", "digest")

_STYLES = {"reminder": "yellow", "alarm": "red", "expired": "bold red"}


def yes(value: bool, messages: Messages) -> Cell:  # noqa: FBT001 - it is the value that is told
    """A flag as a coloured word."""
    return (messages.say("yesno.yes"), "green") if value else (messages.say("yesno.no"), "red")


def dossier_rows(found: Iterable[Fields], messages: Messages) -> Rows:
    """Dossiers as the rows of `DOSSIER_HEADS`."""
    return [
        (
            one.text("slug"),
            one.names("name").get(messages.language, one.text("slug")),
            messages.named("dossier_kind", one.text("kind")),
            messages.instant(one.instant("opened_at")),
        )
        for one in found
    ]


def standing_pairs(found: Fields, messages: Messages) -> Pairs:
    """A dossier and how it stands, field by field."""
    standing = found.inner("standing")
    eligibility = standing.inner("eligibility")
    missing = ", ".join(messages.named("document", code) for code in eligibility.texts("missing"))
    return [
        ("slug", found.text("slug")),
        ("name", found.names("name").get(messages.language, "")),
        ("as_of", standing.text("on")),
        ("share", _percent(standing.optional_text("share_percent"), messages)),
        ("criteria", yes(standing.flag("meets_criteria"), messages)),
        ("eligible", yes(eligibility.flag("is_eligible"), messages)),
        ("missing", missing or messages.say("yesno.none")),
    ]


def step_rows(standing: Fields, messages: Messages) -> Rows:
    """The order of steps as the rows of `STEP_HEADS`."""
    return [
        (
            messages.named("step", one.text("step")),
            yes(one.flag("is_done"), messages),
            messages.say("yesno.yes") if one.flag("is_next") else "",
        )
        for one in standing.objects("steps")
    ]


def criterion_rows(standing: Fields, messages: Messages) -> Rows:
    """Criteria as the rows of `CRITERION_HEADS`."""
    return [
        (messages.named("criterion", one.text("criterion")), yes(one.flag("holds"), messages))
        for one in standing.objects("criteria")
    ]


def document_rows(found: Fields, messages: Messages) -> Rows:
    """Documents as the rows of `DOCUMENT_HEADS`."""
    return [
        (
            str(one.integer("id")),
            messages.named("document", one.text("code")),
            one.text("number"),
            one.text("issued_on"),
            one.optional_text("expires_on") or messages.say("yesno.none"),
        )
        for one in found.objects("documents")
    ]


def expiry_rows(found: Iterable[Fields], messages: Messages) -> Rows:
    """Documents that run out as the rows of `EXPIRY_HEADS`."""
    return [
        (
            one.text("dossier"),
            messages.named("document", one.text("code")),
            one.text("number"),
            one.text("expires_on"),
            str(one.integer("days_left")),
            (messages.named("document_state", one.text("state")), _STYLES.get(one.text("state"), "")),
            one.text("renew_by"),
        )
        for one in found
    ]


def check_rows(found: Fields, messages: Messages) -> Rows:
    """The check list as the rows of `CHECK_HEADS`."""
    return [
        (
            one.text("dossier"),
            yes(one.inner("eligibility").flag("is_eligible"), messages),
            ", ".join(messages.named("document", code) for code in one.inner("eligibility").texts("missing")),
            one.optional_text("checked_on") or messages.say("yesno.none"),
            messages.say("yesno.yes" if one.flag("is_due") else "yesno.no"),
        )
        for one in found.objects("items")
    ]


def payment_rows(found: Iterable[Fields], messages: Messages) -> Rows:
    """Payments as the rows of `PAYMENT_HEADS`."""
    return [
        (
            one.text("contract"),
            one.text("number"),
            one.text("party"),
            messages.say("yesno.yes" if one.flag("counts_as_foreign") else "yesno.no"),
            one.text("paid_on"),
            one.text("amount"),
            one.text("currency"),
            messages.named("purpose", one.text("purpose")),
        )
        for one in found
    ]


def share_pairs(found: Fields, messages: Messages) -> Pairs:
    """A localisation share, field by field."""
    share = found.inner("share")
    pairs: Pairs = [
        ("period", f"{found.text('starts_on')} \N{EN DASH} {found.text('ends_on')}"),
        ("payments", str(found.integer("payments"))),
        ("foreign_sum", share.text("foreign_tenge")),
        ("total_sum", share.text("total_tenge")),
        ("share", _percent(share.text("share_percent"), messages)),
        ("threshold", yes(share.flag("is_reached"), messages)),
    ]
    year = found.optional_inner("past_year")
    if year is not None:
        pairs += [
            ("past_year", f"{year.integer('year')}: {_percent(year.text('foreign_percent'), messages)}"),
            ("past_year_kept", yes(year.flag("is_kept"), messages)),
        ]
    return pairs


def report_rows(found: Iterable[Fields], messages: Messages) -> Rows:
    """Issued reports as the rows of `REPORT_HEADS`."""
    return [
        (
            messages.named("report_kind", one.text("kind")),
            f"{one.text('starts_on')} \N{EN DASH} {one.text('ends_on')}",
            messages.instant(one.instant("as_of")),
            one.text("sha256"),
        )
        for one in found
    ]


def _percent(text: str | None, messages: Messages) -> str:
    """A percentage as the language writes it; a dash where there is none."""
    if text is None:
        return messages.say("yesno.none")
    return messages.say("unit.percent", value=text if messages.language == "en" else text.replace(".", ","))
