"""A job that fails: its labels do not match its pictures. Ends with exit code 3."""

import sys
import traceback

PICTURES = 120
LABELS = 119


class LabelsMissingError(Exception):
    """There are fewer labels than pictures."""


def main():
    print(f"reading {PICTURES} pictures and {LABELS} labels", flush=True)
    if LABELS < PICTURES:
        raise LabelsMissingError(
            f"{PICTURES - LABELS} of {PICTURES} pictures has no label: add it, then submit again"
        )


if __name__ == "__main__":
    try:
        main()
    except LabelsMissingError:
        traceback.print_exc()
        sys.exit(3)
