"""The localisation report in the form of the annex to Order No 604, in Kazakh and Russian. Pure.

The form numbers its sections 1, 2 and 6; the numbers are kept.
"""

from __future__ import annotations

from functools import partial

from products.reports.data import LocalisationForm, digest
from products.reports.document import Cell, Column, Document, Heading, Paragraph, Signatures, Table
from products.reports.texts import Language, day, decimal, instant, text


def lay_out(form: LocalisationForm, language: Language) -> Document:
    """The form in a language: kk or ru, the two that the order has."""
    say = partial(text, language)
    general = {
        "organisation": form.organisation,
        "number": form.number,
        "product": form.product,
        "starts_on": day(language, form.starts_on),
        "ends_on": day(language, form.ends_on),
        "responsible": form.responsible,
        "contact": form.contact,
    }
    columns = (Column(say("column.figure"), 3), Column(say("column.value"), 2))
    sums = tuple(
        (Cell(say(f"form.{key}")), Cell(decimal(language, value, places=2), value, 2))
        for key, value in (
            ("foreign", form.foreign_tenge),
            ("total", form.total_tenge),
            ("share", form.share_percent),
        )
    )
    return Document(
        language=language,
        title=say("form.title"),
        subtitle=(),
        blocks=(
            Heading(say("form.section_1")),
            Table(
                "general",
                columns,
                tuple((Cell(say(f"form.{key}")), Cell(value)) for key, value in general.items()),
            ),
            Heading(say("form.section_2")),
            Table("calculation", (columns[0], Column(say("column.value"), 2, is_number=True)), sums),
            Paragraph(f"{say('form.formula')} {say('form.reached' if form.is_reached else 'form.missed')}"),
            Heading(say("form.section_6")),
            Paragraph(say("form.truth")),
            Signatures((say("form.responsible"), say("form.date"), say("form.signature"))),
            Paragraph(say("report.as_of", at=instant(language, form.as_of)), "small"),
        ),
        footer=say("report.digest", digest=digest(form)),
        page=say("report.page", page="{page}", pages="{pages}"),
        is_landscape=False,
    )
