"""The form of bearer tokens: `kzk_<43 random base62 characters>_<6 characters of checksum>`.

The checksum lets a mistyped or foreign secret be refused without a look into the database, and lets secret scanners
recognise a leaked one. Only the SHA-256 of the whole is stored: 256 random bits need no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from typing import Final

BODY_CHARS: Final = 43
"""Random characters of a token: 43 of 62 hold 256 bits."""
CHECKSUM_CHARS: Final = 6
"""Characters of a CRC-32 in base 62."""
PREFIX_CHARS: Final = 10
"""Characters of a token that are stored so that its owner recognises it: the mark and 6 random ones."""
MAX_SECRET_CHARS: Final = 128
"""Longest text looked at as a token; ours have 54."""

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(rf"kzk_([0-9A-Za-z]{{{BODY_CHARS}}})_([0-9A-Za-z]{{{CHECKSUM_CHARS}}})")


def new_secret() -> str:
    """Make a token from the operating system's randomness."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(BODY_CHARS))
    return f"kzk_{body}_{_checksum(body)}"


def is_well_formed(secret: str) -> bool:
    """Whether the text has a token's form and checksum."""
    if len(secret) > MAX_SECRET_CHARS:
        return False
    match = _FORM.fullmatch(secret)
    return match is not None and hmac.compare_digest(_checksum(match[1]), match[2])


def digest(secret: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(secret.encode()).digest()


def prefix(secret: str) -> str:
    """The part of a token that may be shown."""
    return secret[:PREFIX_CHARS]


def _checksum(body: str) -> str:
    rest, found = zlib.crc32(body.encode()), ""
    while len(found) < CHECKSUM_CHARS:
        rest, place = divmod(rest, len(_ALPHABET))
        found = _ALPHABET[place] + found
    return found
