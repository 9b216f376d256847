"""What a dossier's stored documents prove on a day: the facts that the criteria of the registers are asked of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from fractions import Fraction
from typing import Final

from products.registers import Dossier, Kind, Producer, Proof


class DocumentCode(StrEnum):
    """What a document is. Source: Orders No 53 as amended by No 567, and No 604."""

    ASSURANCE_CERTIFICATE = "assurance-certificate"
    TEST_PROTOCOLS = "test-protocols"
    EXCLUSIVE_RIGHTS = "exclusive-rights"
    SUPPORT_FORM = "support-form"
    INDUSTRIAL_CERTIFICATE = "industrial-certificate"
    PRODUCERS_EXTRACT = "producers-extract"
    CALCULATION = "calculation"
    CONTRACTS = "contracts"
    ORDER_TO_START = "order-to-start"
    TERMS_OF_REFERENCE = "terms-of-reference"
    ORDER_INTO_OPERATION = "order-into-operation"
    EMPLOYEES = "employees"


_PROOFS: Final = {proof.value: proof for proof in Proof}


class BadDocumentError(ValueError):
    """A document says what its kind does not say, or lacks what it must say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of a dossier.

    Args:
        code: what it is.
        number: its number.
        issued_on: first day it is valid.
        expires_on: last day it is valid, None = without end.
        level: evaluation assurance level 1 to 7, of an assurance certificate only.
        share_ratio: share 0..1, of an industrial certificate only.

    Raises:
        BadDocumentError: it ends before it begins, or level or share do not belong to its kind.
    """

    code: DocumentCode
    number: str
    issued_on: date
    expires_on: date | None = None
    level: int | None = None
    share_ratio: Fraction | None = None

    def __post_init__(self) -> None:
        if self.expires_on is not None and self.expires_on < self.issued_on:
            raise BadDocumentError(
                f"document {self.number} expires on {self.expires_on}, before it was issued on {self.issued_on}; "
                "swap the dates"
            )
        for name, owner in (
            ("level", DocumentCode.ASSURANCE_CERTIFICATE),
            ("share_ratio", DocumentCode.INDUSTRIAL_CERTIFICATE),
        ):
            is_given, is_wanted = getattr(self, name) is not None, self.code is owner
            if is_given != is_wanted:
                word = "share" if name == "share_ratio" else name
                raise BadDocumentError(
                    f"document {self.number} is of kind {self.code}: "
                    + (f"enter its {word}" if is_wanted else f"leave out the {word}, which only {owner} has")
                )

    def is_valid(self, on: date) -> bool:
        """Whether it is valid on a day, both ends included."""
        return self.issued_on <= on and (self.expires_on is None or on <= self.expires_on)


def dossier_of(
    kind: Kind, documents: Iterable[Document], localisation_ratio: Fraction | None, on: date
) -> Dossier:
    """What can be shown on a day: of several documents of a kind the best counts."""
    valid = [document for document in documents if document.is_valid(on)]
    codes = {document.code for document in valid}
    levels = [document.level for document in valid if document.level is not None]
    shares = [document.share_ratio for document in valid if document.share_ratio is not None]
    return Dossier(
        kind=kind,
        assurance_level=max(levels, default=None),
        has_protocols=DocumentCode.TEST_PROTOCOLS in codes,
        has_exclusive_rights=DocumentCode.EXCLUSIVE_RIGHTS in codes,
        localisation_ratio=localisation_ratio,
        certificate_ratio=max(shares, default=None),
        has_producers_extract=DocumentCode.PRODUCERS_EXTRACT in codes,
        has_support_form=DocumentCode.SUPPORT_FORM in codes,
    )


@dataclass(frozen=True, slots=True)
class Entered:
    """A span in a register: first day, and the first day it is no longer there, None while it is."""

    since: date
    until: date | None


def producer_of(
    slug: str, documents: Iterable[Document], *, is_calculated: bool, trusted: Iterable[Entered], on: date
) -> Producer:
    """What the register of Kazakhstani producers asks of a product, from what is stored of it.

    Args:
        slug: of the dossier.
        documents: its documents, withdrawn ones left out.
        is_calculated: whether the platform calculated its localisation share: that is the calculation report.
        trusted: its spans in the trusted register; the latest that has begun on the day counts.
        on: the day.
    """
    valid = (_PROOFS.get(document.code.value) for document in documents if document.is_valid(on))
    proofs = {proof for proof in valid if proof is not None} | (
        {Proof.CALCULATION} if is_calculated else set()
    )
    begun = sorted((span for span in trusted if span.since <= on), key=lambda span: span.since)
    last = begun[-1] if begun else None
    return Producer(
        product=slug,
        proofs=frozenset(proofs),
        trusted_since=None if last is None else last.since,
        trusted_until=None if last is None else last.until,
    )
