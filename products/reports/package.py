"""Office files are ZIP archives: made equal byte for byte, and given the data they were made from."""

from __future__ import annotations

import zipfile
from datetime import datetime
from io import BytesIO
from typing import Final

DATA_PART: Final = "kezek/report.json"
"""Where the data stand inside the archive."""

MAX_PARTS: Final = 500
"""Parts of an archive that is read [count]: a report of ours has about 20."""

MAX_PART_BYTES: Final = 64 << 20
"""Size of a part that is read, unpacked [bytes]: a report's data are far below 1 MiB."""

_TYPES: Final = "[Content_Types].xml"
_RELATIONS: Final = "_rels/.rels"
_EPOCH_YEAR: Final = 1980
_MODE: Final = 0o600 << 16


class BadPackageError(ValueError):
    """The archive cannot be read, or is too large to be a report."""


def seal(content: bytes, envelope: bytes, as_of: datetime) -> bytes:
    """The archive with the data as a part of its own; order, dates and modes come from content and `as_of` only.

    Args:
        content: an Open Packaging archive (DOCX, XLSX).
        envelope: JSON to carry.
        as_of: aware instant; the date of every part (not before 1980, which ZIP cannot write).
    """
    with zipfile.ZipFile(BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    kind = f'<Override PartName="/{DATA_PART}" ContentType="application/json"/></Types>'
    parts[_TYPES] = parts[_TYPES].replace(b"</Types>", kind.encode())
    relation = f'<Relationship Id="kezekData" Type="urn:kezek:report" Target="{DATA_PART}"/></Relationships>'
    parts[_RELATIONS] = parts[_RELATIONS].replace(b"</Relationships>", relation.encode())
    parts[DATA_PART] = envelope
    stamp = (max(as_of.year, _EPOCH_YEAR), as_of.month, as_of.day, as_of.hour, as_of.minute, as_of.second)
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(parts, key=lambda name: (name != _TYPES, name)):
            entry = zipfile.ZipInfo(name, stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = _MODE
            entry.create_system = 3
            archive.writestr(entry, parts[name])
    return made.getvalue()


def data_of(content: bytes) -> tuple[bytes | None, str]:
    """The data an archive carries (None without), and what it is: "docx", "xlsx" or "".

    Raises:
        BadPackageError: no readable archive, or one too large.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            names = archive.namelist()
            if len(names) > MAX_PARTS:
                raise BadPackageError(
                    f"the archive has {len(names)} parts, at most {MAX_PARTS} are read; it is no report"
                )
            kind = "docx" if "word/document.xml" in names else "xlsx" if "xl/workbook.xml" in names else ""
            if DATA_PART not in names:
                return None, kind
            if archive.getinfo(DATA_PART).file_size > MAX_PART_BYTES:
                raise BadPackageError(
                    f"its data are over {MAX_PART_BYTES} bytes; it is no report of this platform"
                )
            return archive.read(DATA_PART), kind
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadPackageError(f"the archive cannot be read ({error}); fetch the file again") from error
