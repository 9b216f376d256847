"""The evidence rule: when a product counts, until when, and that no earlier as-of is ever rewritten."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import products
from products import evidence, rules
from products.evidence import (
    Condition,
    Described,
    EvidenceLost,
    Fact,
    History,
    Review,
    Reviewed,
    TooManyFactsError,
    Trained,
    judge,
    judge_all,
)
from products.indicator import ALMATY, TARGETS, YearWithoutTargetError
from products.kpi import (
    BadInitiativeError,
    FutureError,
    Imported,
    ImportYearError,
    Initiative,
    Measurement,
    Progress,
    contribution_7,
    contribution_8,
    indicator_2,
    track,
    year_bounds,
)
from products.model import Direction, ProductId, Stage
from products.rules import STAGES, BadRulesError, EvidenceRule, parse_rules, rule_in_force
from quota.model import Ground, GroundKind
from tenants.model import Category, Sector

RULE = EvidenceRule("1", date(2025, 1, 1), 3600, Stage.PROTOTYPE, needs_ai=True)
STRICT = EvidenceRule("2", date(2026, 7, 1), 7200, Stage.PILOT, needs_ai=True)
START = datetime(2026, 3, 1, tzinfo=UTC)


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def product(
    *facts: Fact, slug: str = "tilshi", programme: str | None = None, sector: Sector = Sector.EDUCATION
) -> History:
    return History(
        product_id=ProductId(UUID(int=1)),
        slug=slug,
        sector=sector,
        category=Category.STARTUP,
        programme=programme,
        facts=facts,
    )


GOOD = (
    Described(at(0), Stage.PROTOTYPE, uses_ai=True),
    Trained(at(1), 17, 3600),
    Reviewed(at(5), Review.VERIFIED),
)


def failing(history: History, as_of: datetime | None = None) -> set[Condition]:
    return {held.condition for held in judge(history, (RULE,), as_of or at(100)).conditions if not held.holds}


def test_a_product_counts_from_the_first_moment_at_which_all_conditions_held() -> None:
    verdict = judge(product(*GOOD), (RULE,), at(100))
    assert verdict.counts
    assert verdict.counted_at == at(5)
    assert verdict.rule == "1"
    assert [held.condition for held in verdict.conditions] == list(Condition)


@pytest.mark.parametrize(
    ("facts", "condition"),
    [
        (GOOD[:2], Condition.VERIFIED),
        ((*GOOD, Reviewed(at(6), Review.RETURNED)), Condition.VERIFIED),
        ((*GOOD, Reviewed(at(6), Review.WITHDRAWN)), Condition.VERIFIED),
        ((GOOD[0], GOOD[2]), Condition.GPU_HOURS),
        ((GOOD[0], Trained(at(1), 17, 3599), GOOD[2]), Condition.GPU_HOURS),
        ((GOOD[0], Trained(at(1), 17, 1800), Trained(at(1), 18, 1800), GOOD[2]), Condition.GPU_HOURS),
        ((*GOOD, EvidenceLost(at(7), 17)), Condition.GPU_HOURS),
        ((Described(at(0), Stage.PROTOTYPE, uses_ai=False), *GOOD[1:]), Condition.USES_AI),
        ((Described(at(0), Stage.IDEA, uses_ai=True), *GOOD[1:]), Condition.STAGE),
    ],
)
def test_each_condition_can_fail_alone_and_is_named(facts: tuple[Fact, ...], condition: Condition) -> None:
    assert failing(product(*facts)) == {condition}
    assert not judge(product(*facts), (RULE,), at(100)).counts


def test_retirement_keeps_what_was_built() -> None:
    retired = product(*GOOD, Described(at(9), Stage.RETIRED, uses_ai=True))
    assert judge(retired, (RULE,), at(10)).counts


def test_before_the_first_rule_nothing_counts() -> None:
    verdict = judge(product(*GOOD), (STRICT,), at(6))
    assert verdict.rule is None
    assert [held.condition for held in verdict.conditions] == [Condition.RULE_IN_FORCE]


def test_a_rule_that_comes_into_force_can_begin_to_count_a_product() -> None:
    late = EvidenceRule("1", date(2026, 5, 1), 3600, Stage.PROTOTYPE, needs_ai=False)
    assert judge(product(*GOOD), (late,), at(100)).counted_at == datetime(2026, 5, 1, tzinfo=ALMATY)


def test_a_stricter_rule_takes_nothing_away_and_judges_what_comes_after_it() -> None:
    old, new = (
        product(*GOOD),
        product(
            *[type(fact)(**{**{n: getattr(fact, n) for n in fact.__slots__}, "at": at(200)}) for fact in GOOD]
        ),
    )
    assert judge(old, (RULE, STRICT), at(300)).rule == "1"
    assert judge(old, (RULE, STRICT), at(300)).counts
    assert judge(new, (RULE, STRICT), at(300)).rule == "2"
    assert not judge(new, (RULE, STRICT), at(300)).counts


def test_a_withdrawal_counts_from_its_moment_on_and_names_its_cause() -> None:
    history = product(*GOOD, Reviewed(at(10), Review.WITHDRAWN))
    before, after = (
        judge(history, (RULE,), at(10) - timedelta(microseconds=1)),
        judge(history, (RULE,), at(10)),
    )
    assert before.counts
    assert not after.counts
    assert after.counted_at == at(5)
    assert after.spans[0].failed == (Condition.VERIFIED,)
    again = judge(product(*history.facts, Reviewed(at(20), Review.VERIFIED)), (RULE,), at(30))
    assert [(span.since, span.until) for span in again.spans] == [(at(5), at(10)), (at(20), None)]
    assert again.counted_at == at(5)


def test_the_number_of_facts_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_FACTS", 3)
    assert judge(product(*GOOD), (RULE,), at(9)).counts
    with pytest.raises(TooManyFactsError, match="tilshi"):
        judge(product(*GOOD, GOOD[0]), (RULE,), at(9))


DAYS = st.integers(-400, 400)
FACTS = st.one_of(
    st.builds(Reviewed, DAYS.map(at), st.sampled_from(Review)),
    st.builds(Described, DAYS.map(at), st.sampled_from(Stage), st.booleans()),
    st.builds(Trained, DAYS.map(at), st.integers(1, 3), st.sampled_from([1, 3600, 7200])),
    st.builds(EvidenceLost, DAYS.map(at), st.integers(1, 3)),
)
HISTORIES = st.lists(st.lists(FACTS, max_size=12), max_size=5).map(
    lambda found: [product(*facts, slug=f"p{place}") for place, facts in enumerate(found)]
)


@given(HISTORIES, DAYS, DAYS)
def test_what_comes_later_never_rewrites_an_earlier_as_of(histories, first, second) -> None:
    early, late = sorted((at(first), at(second)))
    for history in histories:
        then = judge(history, (RULE, STRICT), early)
        now = judge(history, (RULE, STRICT), late)
        assert [span.since for span in then.spans] == [
            span.since for span in now.spans if span.since <= early
        ]
        ended = [span for span in now.spans if span.until is not None and span.until <= early]
        assert [span for span in then.spans if span.until is not None] == ended


@given(HISTORIES)
def test_added_less_ceased_over_all_years_is_the_cumulative_count(histories) -> None:
    as_of = at(400)
    verdicts = judge_all(histories, (RULE, STRICT), as_of)
    years = [indicator_2(verdicts, (), year, as_of) for year in (2025, 2026, 2027)]
    running = 0
    for figure in years:
        running += figure.added - figure.ceased
        assert figure.cumulative == running == len(figure.counted)
    assert years[-1].cumulative == sum(verdict.counts for verdict in verdicts)


def test_the_year_is_the_calendar_year_of_almaty() -> None:
    midnight = datetime(2027, 1, 1, tzinfo=ALMATY)
    facts = (Described(at(0), Stage.PILOT, uses_ai=True), Trained(at(1), 1, 3600))
    last = product(*facts, Reviewed(midnight - timedelta(seconds=1), Review.VERIFIED), slug="last")
    first = product(*facts, Reviewed(midnight, Review.VERIFIED), slug="first")
    as_of = midnight + timedelta(days=3)
    verdicts = judge_all([last, first], (RULE,), as_of)
    old, new = (indicator_2(verdicts, (), year, as_of) for year in (2026, 2027))
    assert [item.slug for item in old.counted] == ["last"]
    assert (old.added, old.forecast_low, old.until) == (1, None, midnight)
    assert (new.added, new.cumulative, new.target, new.until) == (1, 2, 15, as_of)
    assert year_bounds(2026)[1] == midnight
    assert (new.added_ratio, new.cumulative_ratio) == (Fraction(1, 15), Fraction(2, 15))


def test_the_forecast_reaches_from_what_counts_to_what_lacks_one_condition() -> None:
    unseen = product(GOOD[0], GOOD[1], slug="a")
    raw = product(GOOD[0], slug="b")
    figure = indicator_2(judge_all([product(*GOOD), unseen, raw], (RULE,), at(30)), (), 2026, at(30))
    assert (figure.forecast_low, figure.forecast_high) == (1, 2)


DECISION = Ground(GroundKind.ORDER, "Ministry", "12", date(2026, 2, 1))


def test_imported_products_are_shown_apart_and_only_once_they_were_imported() -> None:
    imported = [
        Imported("old", date(2025, 9, 1), DECISION, at(0)),
        Imported("older", date(2026, 1, 15), DECISION, at(50)),
    ]
    figure = indicator_2((), imported, 2026, at(10))
    assert (figure.imported_added, figure.imported_cumulative, figure.cumulative) == (0, 1, 0)
    later = indicator_2((), imported, 2026, at(60))
    assert (later.imported_added, later.imported_cumulative) == (1, 2)
    with pytest.raises(ImportYearError, match="2027"):
        Imported("new", date(2027, 1, 1), DECISION, at(0))


@pytest.mark.parametrize("year", [2024, 2030])
def test_a_year_without_target_is_refused(year: int) -> None:
    with pytest.raises(YearWithoutTargetError):
        indicator_2((), (), year, datetime(2031, 1, 1, tzinfo=UTC))
    with pytest.raises(YearWithoutTargetError):
        contribution_7((), year, datetime(2031, 1, 1, tzinfo=UTC))


def test_a_year_that_has_not_begun_is_refused() -> None:
    for ask in (lambda: indicator_2((), (), 2027, at(0)), lambda: contribution_8((), 2027, at(0))):
        with pytest.raises(FutureError, match="2027"):
            ask()


def test_contributions_count_what_they_say() -> None:
    served = [
        ("a", Category.STARTUP, at(1)),
        ("a", Category.STARTUP, at(2)),
        ("b", Category.UNIVERSITY, at(1)),
        ("c", Category.STARTUP, at(90)),
        ("d", Category.STARTUP, at(-300)),
    ]
    seven = contribution_7(served, 2026, at(50))
    assert (seven.count, seven.counted, seven.is_ambiguous) == (1, ("a",), True)
    histories = [
        product(*GOOD, slug="in", programme="Astana Hub"),
        product(*GOOD, slug="no-programme"),
        product(*GOOD, slug="other", programme="Astana Hub", sector=Sector.OTHER),
        product(GOOD[0], slug="uncounted", programme="Astana Hub"),
    ]
    judged = [(verdict, Stage.PRODUCTION) for verdict in judge_all(histories, (RULE,), at(50))]
    eight = contribution_8(judged, 2026, at(50))
    assert (eight.counted, eight.is_ambiguous) == (("in",), False)
    assert contribution_8([(verdict, Stage.PILOT) for verdict, _ in judged], 2026, at(50)).count == 0


def initiative(*measurements: tuple[date, int], baseline: int = 0, target: int = 100) -> Initiative:
    return Initiative(
        slug="qaz-tutor", direction=Direction.EDUCATION_AND_LABOUR, kpi=(("en", "schools"),), unit="count", baseline=baseline,
        target=target, deadline=date(2026, 12, 31), measurements=tuple(Measurement(on, value, "register") for on, value in measurements),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "on", "progress"),
    [
        (initiative(), date(2026, 5, 1), Progress.NO_DATA),
        (initiative((date(2026, 4, 1), 40)), date(2026, 5, 1), Progress.UNDER_WAY),
        (initiative((date(2026, 6, 1), 100)), date(2026, 5, 1), Progress.NO_DATA),
        (initiative((date(2026, 12, 31), 100)), date(2027, 5, 1), Progress.REACHED),
        (initiative((date(2026, 6, 1), 100), (date(2026, 9, 1), 80)), date(2027, 5, 1), Progress.REACHED),
        (initiative((date(2027, 1, 1), 100)), date(2027, 5, 1), Progress.REACHED_LATE),
        (initiative((date(2026, 12, 31), 99)), date(2026, 12, 31), Progress.UNDER_WAY),
        (initiative((date(2026, 12, 31), 99)), date(2027, 1, 1), Progress.MISSED),
        (initiative((date(2026, 4, 1), 10), baseline=30, target=12), date(2026, 5, 1), Progress.REACHED),
    ],
)
def test_an_initiative_is_tracked_against_its_own_kpi(
    found: Initiative, on: date, progress: Progress
) -> None:
    assert track(found, on).progress is progress


def test_progress_is_the_way_gone_from_the_baseline() -> None:
    tracking = track(initiative((date(2026, 4, 1), 25), baseline=20, target=30), date(2026, 12, 30))
    assert (tracking.ratio, tracking.days_left) == (0.5, 1)
    with pytest.raises(BadInitiativeError):
        initiative(baseline=5, target=5)


def test_the_published_rules_can_be_read() -> None:
    found = parse_rules((Path(products.__file__).parent / "evidence_rules.yaml").read_text(encoding="utf-8"))
    assert found[0] == RULE
    assert rule_in_force(found, datetime(2024, 12, 31, 18, 59, 59, tzinfo=UTC)) is None
    assert rule_in_force(found, datetime(2024, 12, 31, 19, tzinfo=UTC)) == RULE
    assert rule_in_force((RULE, STRICT), at(300)) == STRICT


ITEM = {
    "version": "'1'",
    "effective_from": "2025-01-01",
    "min_job_gpu_hours": "1",
    "min_stage": "pilot",
    "needs_ai": "true",
    "reverify_days": "365",
}


def written(*items: dict[str, str]) -> str:
    return "".join(
        "- {" + ", ".join(f"{key}: {value}" for key, value in item.items()) + "}\n" for item in items
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "list of 1"),
        ("a: 1", "list of 1"),
        ("- [", "no YAML"),
        (written({**ITEM, "extra": "1"}), "exactly the fields"),
        (written({**ITEM, "version": "1"}), "version"),
        (written({**ITEM, "effective_from": "soon"}), "effective_from"),
        (written({**ITEM, "min_job_gpu_hours": "0"}), "whole number"),
        (written({**ITEM, "min_job_gpu_hours": "true"}), "whole number"),
        (written({**ITEM, "min_stage": "retired"}), "min_stage"),
        (written({**ITEM, "needs_ai": "1"}), "needs_ai"),
        (written({**ITEM, "reverify_days": "0"}), "reverify_days"),
        (written({**ITEM, "reverify_days": "true"}), "reverify_days"),
        (written(ITEM, {**ITEM, "version": "'2'"}), "later"),
        (written(ITEM, {**ITEM, "effective_from": "2026-01-01"}), "same version"),
    ],
)
def test_rules_that_are_none_are_refused_by_place(text: str, says: str) -> None:
    with pytest.raises(BadRulesError, match=says):
        parse_rules(text)


def test_the_document_of_rules_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    text = written(ITEM)
    monkeypatch.setattr(rules, "MAX_RULES_CHARS", len(text))
    assert len(parse_rules(text)) == 1
    with pytest.raises(BadRulesError, match="characters"):
        parse_rules(text + " ")


def test_the_targets_are_the_concepts() -> None:
    assert TARGETS == {2025: 5, 2026: 10, 2027: 15, 2028: 20, 2029: 25}


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        ((Stage.IDEA, False), (Stage.PRODUCTION, True), (Stage.PRODUCTION, True)),
        ((Stage.PRODUCTION, True), (Stage.IDEA, True), (Stage.IDEA, True)),
        ((Stage.PRODUCTION, True), (Stage.PRODUCTION, False), (Stage.PRODUCTION, False)),
    ],
)
def test_what_is_said_after_a_verification_holds_at_once_only_when_it_is_less(
    said: tuple[Stage, bool], before: tuple[Stage, bool], after: tuple[Stage, bool]
) -> None:
    verified = (Described(at(0), *said), Reviewed(at(1), Review.VERIFIED), Described(at(2), *before))
    then = judge(product(*verified), (RULE,), at(3)).standing
    lesser = min(said, before, key=lambda item: (STAGES.index(item[0]), item[1]))
    assert (then.stage, then.uses_ai) == lesser
    again = judge(product(*verified, Reviewed(at(4), Review.VERIFIED)), (RULE,), at(5)).standing
    assert (again.stage, again.uses_ai) == after


def test_a_verification_is_renewed_yearly_and_overdue_takes_nothing_away() -> None:
    verdict = judge(product(*GOOD), (RULE,), at(5 + 365))
    assert verdict.review_due_at == at(5 + 365)
    assert verdict.is_review_overdue
    assert verdict.counts
    assert not judge(product(*GOOD), (RULE,), at(5 + 364)).is_review_overdue
    renewed = product(*GOOD, Reviewed(at(300), Review.VERIFIED))
    assert judge(renewed, (RULE,), at(400)).review_due_at == at(300 + 365)
    assert judge(renewed, (RULE,), at(400)).counted_at == at(5)
    assert judge(product(*GOOD[:2]), (RULE,), at(400)).review_due_at is None
    assert judge(product(*GOOD), (STRICT,), at(6)).review_due_at is None


def test_a_verdict_carries_what_it_was_judged_by() -> None:
    found = judge(product(*GOOD, Trained(at(2), 9, 7200)), (RULE,), at(10)).standing
    assert (found.longest_job, found.longest_s, found.review, found.verified_at) == (
        9,
        7200,
        Review.VERIFIED,
        at(5),
    )
