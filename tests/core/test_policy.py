"""A policy document becomes a policy, or a refusal that names the place and the way out."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from fractions import Fraction

import pytest

from quota import document as read
from quota.model import Ground, GroundKind, QuotaNode, Route, Share
from quota.policy import (
    MAX_TREE_NODES,
    PolicyCode,
    PolicyError,
    load_policy_text,
    parse_policy,
    policy_digest,
    policy_queue,
    route,
    validate_against,
)

TEXT = """
policy:
  version: 2026.10
  effective_from: 2026-03-01
  grounds:
    - {kind: council-protocol, body: a council, number: 3, date: 2026-01-15}
    - {kind: order, body: the body, number: "41", date: 2026-02-01, digest: DIGEST}
  priority_sectors: {valid_year: 2026}
  usage_half_life: 2d
  usage_sampling: 15m
  aging: {full_after: 36h}
  start_reservations: 4
  borrowed_reservations: 3
  checkpoint: {max_protected: 90m, refund_cap: 45m}
  fair_share_weights: {h200: 1.0, h100: 0.1}
  tree:
    big: {nominal: 12.5%, max_walltime: 2w, default_walltime: 1h, preemption: {grace: 90s}, priority: -3}
    sectors: {nominal: 25%, children: {energy: {}, mining: {weight: 3}}}
    young: {nominal: 4, free_period: 2y, max_gpus_per_job: 8, lending_limit: 50%}
    rest:
    far: {nominal: 0, borrowing_limit: 3}
  routes:
    - {programme: [moon, mars], queue: big}
    - {category: business, sector: "*priority", queue: "sectors/{sector}"}
    - {category: [startup, business], queue: young}
    - {sector: health-care, queue: rest}
  moves: {old: young}
""".replace("DIGEST", "ab" * 32)


def test_every_key_of_a_document_is_read_exactly():
    document, policy = load_policy_text(TEXT)
    assert json.loads(json.dumps(document)) == document
    assert policy.version == "2026.10"
    assert policy.effective_from == date(2026, 3, 1)
    assert policy.grounds == (
        Ground(GroundKind.COUNCIL_PROTOCOL, "a council", "3", date(2026, 1, 15)),
        Ground(GroundKind.ORDER, "the body", "41", date(2026, 2, 1), "ab" * 32),
    )
    assert policy.tree == (
        QuotaNode(
            "big",
            Share(Fraction(1, 8)),
            priority=-3,
            default_walltime_s=3_600,
            max_walltime_s=1_209_600,
            grace_s=90,
        ),
        QuotaNode("far", 0, borrowing_limit=3),
        QuotaNode("rest"),
        QuotaNode("sectors", Share(Fraction(1, 4))),
        QuotaNode("sectors/energy"),
        QuotaNode("sectors/mining", weight=3),
        QuotaNode(
            "young", 4, lending_limit=Share(Fraction(1, 2)), max_gpus_per_job=8, free_period_s=730 * 86_400
        ),
    )
    assert policy.routes[:2] == (
        Route("big", programmes=("moon", "mars")),
        Route("sectors/{sector}", ("business",), ("*priority",)),
    )
    assert policy.priority_sectors_year == 2026
    assert (policy.usage_half_life_s, policy.aging_full_after_s, policy.start_reservations) == (
        172_800,
        129_600,
        4,
    )
    assert policy.borrowed_reservations == 3
    assert policy.usage_sampling_s == 900
    assert (policy.checkpoint_max_protected_s, policy.checkpoint_refund_cap_s) == (5_400, 2_700)
    assert policy.fair_share_weights == {"h200": Fraction(1), "h100": Fraction(1, 10)}
    assert policy.moves == {"old": "young"}
    assert policy_queue(policy, "old") == "young"
    assert policy_queue(policy, "big") == "big"


def test_dates_and_decimals_of_an_ordinary_yaml_reader_are_taken_too(build):
    policy = build.policy(effective_from=date(2026, 1, 2), version=2026.1, fair_share_weights={"h200": 0.8})
    assert (policy.effective_from, policy.version) == (date(2026, 1, 2), "2026.1")
    assert policy.fair_share_weights == {"h200": Fraction(4, 5)}


def test_what_a_document_leaves_out_keeps_its_default(build):
    policy = build.policy()
    assert policy.priority_sectors_year is None
    assert policy.usage_half_life_s == policy.aging_full_after_s == 7 * 86_400
    assert (policy.start_reservations, policy.borrowed_reservations) == (16, 1)
    assert policy.usage_sampling_s == 3_600
    assert policy.moves == policy.fair_share_weights == {}


@pytest.mark.parametrize(
    ("category", "sector", "programme", "queue"),
    [
        ("business", "energy", "mars", "big"),
        ("business", "energy", None, "sectors/energy"),
        ("business", "mining", "venus", "sectors/mining"),
        ("business", "oil-and-gas", None, "young"),
        ("startup", "energy", None, "young"),
        ("citizen", "health-care", None, "rest"),
        ("citizen", "energy", None, None),
    ],
)
def test_the_first_route_that_matches_gives_the_queue(category, sector, programme, queue):
    _, policy = load_policy_text(TEXT)
    assert route(policy, category, sector, programme) == queue


def test_a_route_may_name_the_sectors_it_expands_to(build):
    tree = {"s": {"children": {"energy": {}, "mining": {}}}, "q": {}}
    policy = build.policy(tree, routes=[{"sector": ["energy", "mining"], "queue": "s/{sector}"}])
    assert route(policy, "business", "mining", None) == "s/mining"
    assert route(policy, "business", "transport", None) is None


def test_the_digest_is_of_the_content_not_of_the_writing():
    document, _ = load_policy_text(TEXT)
    turned = {"policy": dict(reversed(document["policy"].items()))}
    assert list(turned["policy"]) != list(document["policy"])
    assert policy_digest(document) == policy_digest(turned)
    assert policy_digest(document) != policy_digest({"policy": document["policy"] | {"version": "2026.1"}})
    assert policy_digest({"d": date(2026, 1, 2)}) == policy_digest({"d": "2026-01-02"})
    assert policy_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


A_GROUND = {"kind": "order", "body": "b", "number": "1", "date": "2025-12-25"}

BAD_SETTINGS = [
    ({"tree": [1]}, "policy.tree", "must be a mapping"),
    ({"tree": {}}, "policy.tree", "has no children"),
    ({"tree": {"q": {"children": {}}}}, "policy.tree.q.children", "has no children"),
    ({"tree": {"q": {"nominel": 3}}}, "policy.tree.q.nominel", 'did you mean "nominal"?'),
    ({"tree": {"Q": {}}}, "policy.tree.Q", "small Latin letters"),
    ({"tree": {"q-": {}}}, "policy.tree.q-", "small Latin letters"),
    ({"tree": {"q" * 64: {}}}, "policy.tree." + "q" * 64, "1 to 63"),
    ({"tree": {7: {}}}, "policy.tree", "the key 7 must be a text"),
    ({"tree": {"q": {"nominal": -1}}}, "policy.tree.q.nominal", "is -1"),
    ({"tree": {"q": {"nominal": 1_000_001}}}, "policy.tree.q.nominal", "is 1000001"),
    ({"tree": {"q": {"nominal": True}}}, "policy.tree.q.nominal", "must be GPUs"),
    ({"tree": {"q": {"nominal": 0.5}}}, "policy.tree.q.nominal", "must be GPUs"),
    ({"tree": {"q": {"nominal": "100.1%"}}}, "policy.tree.q.nominal", "at most 100%"),
    ({"tree": {"q": {"nominal": "ten"}}}, "policy.tree.q.nominal", "must be GPUs"),
    ({"tree": {"q": {"weight": 0}}}, "policy.tree.q.weight", "is 0"),
    ({"tree": {"q": {"weight": True}}}, "policy.tree.q.weight", "whole number"),
    ({"tree": {"q": {"priority": 1_000_001}}}, "policy.tree.q.priority", "must be from"),
    ({"tree": {"q": {"max_walltime": "0h"}}}, "policy.tree.q.max_walltime", "must be from 1s to 10y"),
    ({"tree": {"q": {"max_walltime": "11y"}}}, "policy.tree.q.max_walltime", "must be from 1s to 10y"),
    ({"tree": {"q": {"max_walltime": 60}}}, "policy.tree.q.max_walltime", "with a unit"),
    ({"tree": {"q": {"max_walltime": "1 h"}}}, "policy.tree.q.max_walltime", "with a unit"),
    (
        {"tree": {"q": {"max_walltime": "1h", "default_walltime": "2h"}}},
        "policy.tree.q.default_walltime",
        "longer than max_walltime",
    ),
    ({"tree": {"q": {"preemption": {"grace": "2m", "x": 1}}}}, "policy.tree.q.preemption.x", "unknown key"),
    ({"tree": {"p": {"priority": 1, "children": {"q": {}}}}}, "policy.tree.p.priority", "setting of queues"),
    ({"grounds": "x"}, "policy.grounds", "must be a list"),
    ({"grounds": [A_GROUND] * 1_001}, "policy.grounds", "at most 1000"),
    ({"grounds": [A_GROUND | {"kind": "ordre"}]}, "policy.grounds[0].kind", 'did you mean "order"?'),
    (
        {"grounds": [{"kind": "order", "body": "b", "date": "2025-01-01"}]},
        "policy.grounds[0].number",
        "is missing",
    ),
    ({"grounds": [A_GROUND | {"date": "25.12.2025"}]}, "policy.grounds[0].date", "2026-01-31"),
    (
        {"grounds": [A_GROUND | {"date": datetime(2025, 1, 1, tzinfo=UTC)}]},
        "policy.grounds[0].date",
        "2026-01-31",
    ),
    ({"grounds": [A_GROUND | {"body": " "}]}, "policy.grounds[0].body", "1 to 200 characters, not 0"),
    ({"grounds": [A_GROUND | {"body": "x" * 201}]}, "policy.grounds[0].body", "not 201"),
    ({"grounds": [A_GROUND | {"body": False}]}, "policy.grounds[0].body", "must be a text"),
    ({"grounds": [A_GROUND | {"digest": "abc"}]}, "policy.grounds[0].digest", "64 hexadecimal"),
    ({"routes": []}, "policy.routes", "is empty"),
    ({"routes": [{"queue": "p"}]}, "policy.routes[0].queue", "is no queue of the tree"),
    ({"routes": [{"queue": "q", "category": []}]}, "policy.routes[0].category", "empty list"),
    (
        {"routes": [{"queue": "q", "category": "startups"}]},
        "policy.routes[0].category",
        'did you mean "startup"?',
    ),
    ({"routes": [{"queue": "q", "category": "zzz"}]}, "policy.routes[0].category", "known: business"),
    (
        {"routes": [{"queue": "q", "sector": "agricultre"}]},
        "policy.routes[0].sector",
        'did you mean "agriculture"?',
    ),
    (
        {"routes": [{"queue": "q", "sector": "*priority"}]},
        "policy.routes[0].queue",
        'must end in "/{sector}"',
    ),
    ({"routes": [{"queue": "{sector}", "sector": "*priority"}]}, "policy.routes[0].queue", "below a cohort"),
    (
        {"routes": [{"queue": "p/x-{sector}", "sector": "*priority"}]},
        "policy.routes[0].queue",
        "whole last name",
    ),
    ({"routes": [{"queue": "p/{sector}"}]}, "policy.routes[0].queue", "name the sectors"),
    (
        {"routes": [{"queue": "p/{sector}", "sector": "*priority"}]},
        "policy.routes[0].queue",
        "has no children",
    ),
    ({"usage_half_life": None}, "policy.usage_half_life", "with a unit"),
    ({"usage_sampling": "59s"}, "policy.usage_sampling", "from 1m to 1d"),
    ({"usage_sampling": "25h"}, "policy.usage_sampling", "from 1m to 1d"),
    ({"start_reservations": 1_001}, "policy.start_reservations", "from 0 to 1000"),
    ({"borrowed_reservations": -1}, "policy.borrowed_reservations", "from 0 to 1000"),
    ({"priority_sectors": {"valid_year": 1999}}, "policy.priority_sectors.valid_year", "is 1999"),
    ({"fair_share_weights": {"h200": 0}}, "policy.fair_share_weights.h200", "above 0"),
    ({"fair_share_weights": {"h200": "-1"}}, "policy.fair_share_weights.h200", "above 0"),
    ({"fair_share_weights": {"h200": float("nan")}}, "policy.fair_share_weights.h200", "above 0"),
    ({"fair_share_weights": {"h200": True}}, "policy.fair_share_weights.h200", "above 0"),
    ({"moves": {"q": "q"}}, "policy.moves.q", "still stands"),
    ({"moves": {"old": "p"}}, "policy.moves.old", "is no queue"),
    ({"treee": {}}, "policy.treee", 'did you mean "tree"?'),
]


@pytest.mark.parametrize(("settings", "path", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:50])
def test_a_wrong_document_is_refused_with_its_path(build, settings, path, message):
    document = {"policy": build.document()["policy"] | settings}
    with pytest.raises(PolicyError) as caught:
        parse_policy(document)
    assert caught.value.code is PolicyCode.BAD_POLICY
    assert caught.value.path == path
    assert message in caught.value.message
    assert str(caught.value) == f"{path}: {caught.value.message}"


def test_a_sector_route_needs_children_named_after_sectors(build):
    tree = {"s": {"children": {"energy": {}, "agricultre": {}}}}
    with pytest.raises(PolicyError, match='"s/agricultre" is named after no known sector'):
        build.policy(tree, routes=[{"sector": "*priority", "queue": "s/{sector}"}])


def test_a_sector_route_that_leads_to_a_cohort_is_refused(build):
    tree = {"s": {"children": {"energy": {"children": {"wind": {}}}}}}
    with pytest.raises(PolicyError, match='"s/energy" is no queue'):
        build.policy(tree, routes=[{"sector": "*priority", "queue": "s/{sector}"}])
    with pytest.raises(PolicyError, match='"s/mining" is no queue'):
        build.policy(
            {"s": {"children": {"energy": {}}}}, routes=[{"sector": "mining", "queue": "s/{sector}"}]
        )


@pytest.mark.parametrize("key", ["version", "effective_from", "grounds", "tree", "routes"])
def test_what_must_be_there_is_missed(build, key):
    document = build.document()
    del document["policy"][key]
    with pytest.raises(PolicyError, match="is missing") as caught:
        parse_policy(document)
    assert caught.value.path == f"policy.{key}"


def test_only_an_enacting_act_enacts(build):
    recommends = [A_GROUND | {"kind": "council-protocol"}, A_GROUND | {"kind": "sector-council-protocol"}]
    with pytest.raises(PolicyError, match="officer-decision or order") as caught:
        build.policy(grounds=recommends)
    assert caught.value.code is PolicyCode.NO_ENACTING_ACT
    with pytest.raises(PolicyError):
        build.policy(grounds=[])
    enacting = {GroundKind.COUNCIL_PROTOCOL}
    assert len(parse_policy(build.document(grounds=recommends), enacting_kinds=enacting).grounds) == 2


@pytest.mark.parametrize(
    ("tree", "path", "asked", "given"),
    [
        ({"a": {"nominal": "60%"}, "q": {"nominal": "40.5%"}}, "policy.tree", "100.5%", "100%"),
        (
            {"p": {"nominal": 8, "children": {"a": {"nominal": 5}, "b": {"nominal": 4}}}},
            "policy.tree.p",
            "9 GPUs",
            "8 GPUs",
        ),
        (
            {"p": {"nominal": 8, "children": {"a": {"nominal": "50%"}, "b": {"nominal": 5}}}},
            "policy.tree.p",
            "9 GPUs",
            "8 GPUs",
        ),
        (
            {"o": {"children": {"p": {"nominal": 1, "children": {"a": {"nominal": 2}}}}}},
            "policy.tree.o.children.p",
            "2 GPUs",
            "1 GPUs",
        ),
    ],
)
def test_children_never_get_more_than_their_parent(build, tree, path, asked, given):
    with pytest.raises(PolicyError) as caught:
        build.policy(tree)
    assert caught.value.code is PolicyCode.SHARES_EXCEED
    assert caught.value.path == path
    assert f"come to {asked}, it has {given}" in caught.value.message


def test_exactly_all_of_the_parent_is_not_too_much(build):
    build.policy({"a": {"nominal": "33.333333333%"}, "b": {"nominal": "66.666666667%"}})
    build.policy({"p": {"nominal": 8, "children": {"a": {"nominal": 3}, "b": {"nominal": 5}}}})


def test_stated_gpus_are_checked_against_the_capacity(build):
    policy = build.policy({"a": {"nominal": 8}, "p": {"nominal": "50%", "children": {"b": {"nominal": 12}}}})
    validate_against(policy, 24)
    with pytest.raises(PolicyError, match=r'"p" come to 12 GPUs, it has 11 GPUs') as caught:
        validate_against(policy, 23)
    assert caught.value.code is PolicyCode.SHARES_EXCEED
    with pytest.raises(PolicyError, match=r'"the root" come to 16 GPUs, it has 15 GPUs'):
        validate_against(policy, 15)  # 8 and 7.5, rounded up


def test_a_tree_has_a_limit_of_depth_and_of_nodes(build):
    def chain(depth):
        return {"q": {} if depth == 1 else {"children": chain(depth - 1)}}

    assert len(build.policy(chain(8)).tree) == 8
    with pytest.raises(PolicyError, match="deeper than 8 levels"):
        build.policy(chain(9))
    assert len(build.policy({f"q{n}": {} for n in range(MAX_TREE_NODES)}).tree) == MAX_TREE_NODES
    with pytest.raises(PolicyError, match="more than 1000 nodes"):
        build.policy({f"q{n}": {} for n in range(MAX_TREE_NODES + 1)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must be a mapping"),
        ("policy: {a: [}", "not valid YAML"),
        ("policy: {a: !!python/object/apply:os.getcwd []}", "not valid YAML"),
        ("policy: {? [a] : 1}", "not valid YAML"),
        ("a: &x [1]\nb: *x", "holds the alias *x"),
        ("policy:\n  a: 1\n  a: 2", 'the key "a" is given twice'),
        ("a: " + "[" * read.MAX_DOCUMENT_DEPTH, "deeper than 40 levels"),
        ("a: " + "x" * (read.MAX_DOCUMENT_BYTES - 2), "at most 262144 are read"),
        ("2: x", "the key 2 must be a text"),
        ("effective_from: 2026-01-01", "unknown key"),
        ("", "must be a mapping"),
    ],
)
def test_a_text_that_is_no_policy_is_refused(text, message):
    with pytest.raises(PolicyError) as caught:
        load_policy_text(text)
    assert message in str(caught.value)


def test_a_text_at_the_limits_is_read():
    assert read.load_document("a: " + "x" * (read.MAX_DOCUMENT_BYTES - 3))["a"].startswith("xx")
    depth = read.MAX_DOCUMENT_DEPTH - 1
    assert read.load_document("a: " + "[" * depth + "]" * depth)["a"] != []


@pytest.mark.parametrize(("typed", "seconds"), [("1m", 60), ("1d", 86_400)])
def test_use_is_sampled_every_minute_to_every_day(build, typed, seconds):
    assert build.policy(usage_sampling=typed).usage_sampling_s == seconds
