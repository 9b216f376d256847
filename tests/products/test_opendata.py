"""Open data: no published cell stands for fewer than three organisations, and nothing is lost by merging."""

import csv
import json
from datetime import UTC, datetime
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st

from products.opendata import (
    FIELDS,
    LEAST_ORGANISATIONS,
    MERGED,
    Cell,
    OpenData,
    merge_small,
    schema,
    to_csv,
    to_json,
    to_rows,
)


def cell(
    key: str, organisations: int | set[str], gpu_seconds: int = 10, busy_seconds: int | None = 5
) -> Cell:
    names = (
        {f"{key}{number}" for number in range(organisations)}
        if isinstance(organisations, int)
        else organisations
    )
    return Cell(
        key=key, organisations=frozenset(names), jobs_running=1, jobs_waiting=2, gpus_busy=3, gpu_seconds=gpu_seconds,
        wait_seconds_sum=60, jobs_started=2, products=1, busy_seconds=busy_seconds, covered_seconds=0 if busy_seconds is None else gpu_seconds,
    )  # fmt: skip


def shown(*cells: Cell) -> list[tuple[str, int, int]]:
    return [(found.key, len(found.organisations), found.gpu_seconds) for found in merge_small(cells)]


def test_cells_of_three_stand_and_smaller_ones_are_merged() -> None:
    assert shown(cell("b", 3), cell("a", 4)) == [("a", 4, 10), ("b", 3, 10)]
    assert shown(cell("a", 2), cell("b", 1), cell("c", 3)) == [("c", 3, 10), (MERGED, 3, 20)]


def test_a_merged_cell_that_is_too_small_takes_the_next_smallest() -> None:
    assert shown(cell("a", 1), cell("b", 5), cell("c", 3)) == [("b", 5, 10), (MERGED, 4, 20)]


def test_one_organisation_in_two_small_cells_is_one_organisation() -> None:
    assert shown(cell("a", {"x", "y"}), cell("b", {"x", "y"})) == []


def test_fewer_than_three_in_all_publish_nothing() -> None:
    assert shown(cell("a", 2)) == []
    assert shown() == []


def test_a_cell_that_says_nothing_does_not_show_and_one_without_owner_is_merged() -> None:
    empty = Cell(
        key="e", organisations=frozenset(), jobs_running=0, jobs_waiting=0, gpus_busy=0, gpu_seconds=0,
        wait_seconds_sum=0, jobs_started=0, products=0, busy_seconds=None, covered_seconds=0,
    )  # fmt: skip
    assert shown(empty, cell("a", 3)) == [("a", 3, 10)]
    assert shown(cell("orphan", 0), cell("a", 3)) == [(MERGED, 3, 20)]


def test_unknown_utilisation_stays_unknown_and_keeps_its_coverage() -> None:
    (merged,) = merge_small([cell("a", 2, busy_seconds=None), cell("b", 2, busy_seconds=None)])
    assert merged.busy_seconds is None
    (partly,) = merge_small([cell("a", 2, busy_seconds=None), cell("b", 2)])
    assert (partly.busy_seconds, partly.covered_seconds, partly.gpu_seconds) == (5, 10, 20)


@given(st.lists(st.integers(0, 6), max_size=12))
def test_nothing_published_tells_about_fewer_than_three_and_nothing_is_lost(sizes) -> None:
    cells = [cell(f"s{place}", size, gpu_seconds=10**place) for place, size in enumerate(sizes)]
    published = merge_small(cells)
    assert all(len(found.organisations) >= LEAST_ORGANISATIONS for found in published)
    assert sum(found.gpu_seconds for found in published) == (
        sum(found.gpu_seconds for found in cells) if published else 0
    )
    if sum(sizes) >= LEAST_ORGANISATIONS:
        assert published


AT = datetime(2026, 11, 1, tzinfo=UTC)
DATA = OpenData(
    AT,
    AT,
    is_simulated=True,
    dimensions=(("sector", (cell("mining", 3, busy_seconds=None),)), ("category", (cell("startup", 1),))),
)


def test_the_files_have_the_columns_of_the_schema_and_no_names() -> None:
    names = [name for name, _, _ in FIELDS]
    document = json.loads(to_json(DATA))
    rows = list(csv.DictReader(StringIO(to_csv(DATA))))
    assert document["schema"] == schema()
    assert document["is_simulated"]
    assert [list(row) for row in rows] == [names] == [list(row) for row in document["rows"]]
    assert rows[0]["busy_seconds"] == ""
    assert document["rows"] == to_rows(DATA)
    assert document["rows"][0]["organisations"] == 3
    assert "mining0" not in to_json(DATA) + to_csv(DATA)
    assert document["schema"]["required"] == names
