"""Catalogues, figures, settings, exit codes, and docs/cli.md against the commands."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer.main
from kezek.cli import app, main
from kezek.errors import FieldError
from kezek.exits import Exit, exit_of
from kezek.fields import Fields
from kezek.machine import Cluster
from kezek.messages import LANGUAGES, Messages, catalogue, choose_language
from kezek.model import FINAL_STATES
from kezek.places import OPTIONS, option_of
from kezek.terminal import explain

import kezek
from api import i18n
from api.errors import ErrorCode
from api.schemas import JobIn
from kezek import ApiError, NetworkError, UsageFaultError, show, show_planning
from metrics.idle import Exemption
from metrics.idle import Step as IdleStep
from products.chain import Break
from products.dossier import DocumentCode
from products.duplicates import Mark
from products.kpi import Progress
from products.localisation import Purpose
from products.model import AiKind, BuiltOn, Direction, ProductStatus, Stage
from products.registers import Criterion, DocumentState, Kind, Step
from scheduler import model
from scheduler.ending import FINAL_CODES
from scheduler.fit import DISRUPTIONS, LACKS, Limit
from scheduler.lifecycle import IDLE_ERROR
from scheduler.order import ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED, RULES
from scheduler.plan import AGED
from scheduler.recurring import Every
from tenants.model import Category, Sector
from tests.client.conftest import job

SOURCE = Path(kezek.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "cli.md"
RANK_ERROR = re.compile(r'"((?:EXEC|ISOLATION|OUTPUTS|SHEPHERD)_[A-Z_]+)"')
EXIT_ERRORS = (
    FINAL_CODES
    | {IDLE_ERROR}
    | {
        code
        for path in (ROOT / "scheduler").rglob("*.py")
        for code in RANK_ERROR.findall(path.read_text("utf-8"))
    }
)
TOLD_APART = {Limit.FLAVOR, Limit.QUEUE, Limit.LABELS, Limit.TOPOLOGY, Limit.CPUS, Limit.MEMORY}
FROM_THE_PLATFORM = {
    "state": {state.value for state in model.JobState},
    "reason": {code.value for code in model.ReasonCode} | {"other", "not_yet"},
    "rule": {rule.name for rule in RULES} | {AGED, ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED},
    "limit": {limit.value for limit in Limit},
    "exit_error": EXIT_ERRORS | {"other"},
    "never_fits": TOLD_APART,
    "never_fits_hint": TOLD_APART,
    "lacks": set(LACKS),
    "borrowing_limit": {DISRUPTIONS},
    "every": {every.value for every in Every},
    "sector": {sector.value for sector in Sector},
    "category": {category.value for category in Category},
    "idle_step": {step.value for step in IdleStep},
    "idle_exemption": {exemption.value for exemption in Exemption},
    "stage": {stage.value for stage in Stage},
    "direction": {each.value for each in Direction},
    "ai_kind": {each.value for each in AiKind},
    "built_on": {each.value for each in BuiltOn},
    "mark": {each.value for each in Mark},
    "chain_break": {each.value for each in Break},
    "progress": {each.value for each in Progress},
    "product_status": {status.value for status in ProductStatus},
    "node": {state.value for state in model.NodeState},
    "dossier_kind": {kind.value for kind in Kind},
    "report_kind": {"monthly", "yearly"},
    "step": {step.value for step in Step},
    "criterion": {criterion.value for criterion in Criterion},
    "document": {code.value for code in DocumentCode},
    "document_state": {state.value for state in DocumentState} - {"valid"},
    "purpose": {purpose.value for purpose in Purpose},
}


SAME_ON_PURPOSE = {"reason.other", "head.digest", "yesno.none"}


def placeholders(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text)} - {None}


def test_the_catalogues_say_the_same_in_three_languages() -> None:
    kk, ru, en = (catalogue(language) for language in LANGUAGES)
    assert kk.keys() == ru.keys() == en.keys()
    for key in en:
        assert placeholders(kk[key]) == placeholders(ru[key]) == placeholders(en[key]), key
        assert min(map(len, (kk[key].strip(), ru[key].strip(), en[key].strip()))) > 0, key
    same = {key for key in en if en[key] in {kk[key], ru[key]}}
    assert same == SAME_ON_PURPOSE


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("section", ["state", "exit_error", "never_fits", "lacks", "borrowing_limit"])
def test_the_client_and_the_platform_say_the_same_words(section: str, language: str) -> None:
    def words(texts: Mapping[str, str]) -> dict[str, str]:
        return {
            key: text.casefold().rstrip(".") for key, text in texts.items() if key.startswith(f"{section}.")
        }

    assert words(catalogue(language)) == words(i18n.catalogue(language))
    assert words(catalogue(language))


def test_where_a_job_runs_is_told_while_it_holds_gpus() -> None:
    en = Messages("en")
    for state in model.JobState:
        told = dict(show.job_pairs(job(state=state.value), en))
        is_live = state in {"ADMITTED", "RUNNING", "COMPLETING"}
        assert told.get("placement") == ("n0 (GPUs: 2); simulated" if is_live else None), state
        assert told.get("reason") == ("not looked at yet" if state == "PENDING" else None), state


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_that_cannot_run_is_told_with_what_to_do(language: str) -> None:
    messages = Messages(language)
    said = show.exit_text(job(state="FAILED", exit_error="EXEC_NOT_FOUND"), messages)
    assert "trian.py" in said
    assert said.endswith("python train.py [EXEC_NOT_FOUND]")
    hidden = show.exit_text(job(state="FAILED", exit_error="EXEC_NOT_FOUND", command=None), messages)
    assert "…" in hidden
    newer = show.exit_text(job(exit_error="NEW_ONE", exit_error_text="told by the platform"), messages)
    assert newer == "told by the platform [NEW_ONE]"
    assert "NO_PORT" in show.exit_text(job(exit_error="NO_PORT"), messages)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("limit", ["flavor", "queue"])
def test_advice_on_what_never_fits_is_of_its_limit(language: str, limit: str) -> None:
    numbers: dict[str, int | str] = {
        "limit": limit, "queue": "science", "gpus": 1, "walltime_s": 60, "max_gpus": 0, "flavors": "h200,l40s",
    }  # fmt: skip
    lines = explain(ApiError(code="NEVER_FITS", status=422, title="T", numbers=numbers), Messages(language))
    assert ("h200,l40s" if limit == "flavor" else "science") in lines[1]
    assert " 0" not in lines[1]
    assert lines[2] != catalogue(language)["hint.NEVER_FITS"]
    assert ("h200,l40s" in lines[2]) == (limit == "flavor")


def test_a_refused_value_is_named_by_its_option() -> None:
    assert set(OPTIONS.values()) <= set().union(*commands().values())
    sent = {f"body.{name}" for name in JobIn.model_fields} - {"body.bundle"}
    assert sent <= set(OPTIONS)
    assert option_of("body.flavors.0") == "--flavor"
    assert option_of("body.bundle") == "body.bundle"
    found = (FieldError("body.walltime_s", "M1"), FieldError("body.env.A", "M2"))
    refused = ApiError(
        code="VALIDATION", status=422, title="T", detail="body.walltime_s: English", errors=found
    )
    lines = explain(refused, Messages("ru"))
    assert lines[:3] == ["T", "--walltime: M1", "--env: M2"]
    assert not any("English" in line for line in lines)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("arguments", "key", "values"),
    [
        ("submit x.py -p p --gpus 0", "at_least", {"name": "--gpus", "least": 1, "command": "kezek submit"}),
        ("submit x.py -g 1", "missing", {"name": "--project", "command": "kezek submit"}),
        ("submit x.py --gpu 1", "no_such_option", {"name": "--gpu", "command": "kezek submit"}),
        ("submit x.py --gpus", "needs_value", {"name": "--gpus", "command": "kezek"}),
        ("jobs --limit 0", "range", {"name": "--limit", "least": 1, "most": 10_000, "command": "kezek jobs"}),
        ("jobs -o xml", "choice", {"name": "--output", "choices": "table, json", "command": "kezek jobs"}),
        ("job", "missing", {"name": "JOB", "command": "kezek job"}),
        ("job x", "at_least", {"name": "JOB", "least": 1, "command": "kezek job"}),
        ("jbos", "not_understood", {"command": "kezek"}),
        (
            "product register s -p p --name-kk a --name-ru b --name-en c --sector s --stage s --started-on x",
            "bad_value",
            {"name": "--started-on", "command": "kezek product register"},
        ),
    ],
)
def test_what_the_parser_refuses_is_told_in_the_readers_language(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    language: str,
    arguments: str,
    key: str,
    values: dict[str, str | int],
) -> None:
    monkeypatch.setattr("sys.argv", ["kezek", *arguments.split()])
    monkeypatch.setenv("KEZEK_LANG", language)
    monkeypatch.delenv("KEZEK_PROJECT", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == Exit.USAGE
    said = capsys.readouterr()
    assert said.err == Messages(language).say(f"usage.{key}", **values) + "\n"
    assert said.out == ""


@pytest.mark.parametrize("section", FROM_THE_PLATFORM)
def test_every_code_of_the_platform_has_words(section: str) -> None:
    said = {key.partition(".")[2] for key in catalogue("en") if key.startswith(f"{section}.")}
    assert said == FROM_THE_PLATFORM[section]


def test_no_text_is_left_unused() -> None:
    code = "".join(path.read_text() for path in SOURCE.glob("*.py"))
    composed = {*FROM_THE_PLATFORM, "hint", "unit", "head"}
    unused = [
        key
        for key in catalogue("en")
        if key.partition(".")[0] not in composed and f'"{key}"' not in code and f"'{key}'" not in code
    ]
    assert unused == []
    hints = {key.partition(".")[2] for key in catalogue("en") if key.startswith("hint.")}
    assert hints <= {code.value for code in ErrorCode}
    heads = [
        key
        for key in catalogue("en")
        if key.startswith("head.") and f'"{key[5:]}"' not in code and f"'{key}'" not in code
    ]
    assert heads == []


def test_the_client_knows_the_final_states() -> None:
    assert {state.value for state in model.FINAL_STATES} == FINAL_STATES


@pytest.mark.parametrize(
    ("env", "language"),
    [
        ({}, "en"),
        ({"LANG": "kk_KZ.UTF-8"}, "kk"),
        ({"LANG": "kk_KZ.UTF-8", "LC_ALL": "ru_RU.UTF-8"}, "ru"),
        ({"KEZEK_LANG": "kk", "LC_ALL": "ru_RU.UTF-8"}, "kk"),
        ({"KEZEK_LANG": "ru-KZ"}, "ru"),
        ({"LC_ALL": "C", "LANG": "kk_KZ.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_environment_chooses_the_language(env: dict[str, str], language: str) -> None:
    assert choose_language(env) == language


def test_figures_are_written_as_each_language_writes_them() -> None:
    en, kk = Messages("en"), Messages("kk")
    assert (en.number(1234.5, 2), kk.number(1234.5, 2)) == ("1234.50", "1234,50")
    assert (en.number(1234567), kk.number(1234567.25, 2)) == ("1,234,567", "1\u00a0234\u00a0567,25")
    assert (en.gpu_hours(5400), kk.gpu_hours(5400)) == ("1.50", "1,50")
    assert [en.duration(s) for s in (0, 59, 60, 3661, 90_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 1 min",
        "1 d 1 h",
    ]
    assert [en.size(n) for n in (1023, 1024, 8 * 1024**2)] == ["1023 B", "1.0 KiB", "8.0 MiB"]
    assert en.instant(datetime(2026, 1, 1, 20, tzinfo=UTC)) == "2026-01-02 01:00:00"
    assert (
        en.reason("WAITING_TURN", {"ahead": 5, "rule": "aged"})
        == "job 5 goes first: it has waited so long that none may overtake it"
    )
    assert en.reason("BACKOFF", {"until_ms": 0}) == "the last start failed; next try: 1970-01-01 05:00:00"
    assert en.reason("BACKOFF", {}) == "BACKOFF"
    assert en.reason("NEW_ONE", {"a": 1, "b": "x"}) == "NEW_ONE (a=1, b=x)"


def test_labels_of_nodes_are_listed_without_the_node_s_own_name() -> None:
    node = {
        "name": "n0", "flavor": "h200", "state": "UP", "is_simulated": False, "gpus": 8, "busy": 0, "free": 8,
        "down": 0, "labels": {"kezek.io/node": "n0", "kezek.kz/rack": "r1"},
    }  # fmt: skip
    whole = {"is_simulated": False, "gpus": 8, "busy": 0, "free": 8, "down": 0, "nodes": [node]}
    [row] = show.node_rows(Cluster.of(Fields(whole, "cluster")), Messages("en"))
    assert row[-1] == "kezek.kz/rack=r1"
    del node["labels"]
    [row] = show.node_rows(Cluster.of(Fields(whole, "cluster")), Messages("en"))
    assert row[-1] == ""


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        (400, "BAD_REQUEST", Exit.USAGE), (401, "TOKEN_EXPIRED", Exit.NOT_ALLOWED), (403, "FORBIDDEN", Exit.NOT_ALLOWED), (404, "NOT_FOUND", Exit.NOT_FOUND),
        (409, "BUDGET_EXHAUSTED", Exit.REFUSED), (413, "BODY_TOO_LARGE", Exit.USAGE), (422, "VALIDATION", Exit.USAGE), (422, "NEVER_FITS", Exit.REFUSED),
        (429, "RATE_LIMITED", Exit.UNAVAILABLE), (500, "INTERNAL", Exit.UNAVAILABLE), (302, "HTTP_302", Exit.UNAVAILABLE),
    ],
)  # fmt: skip
def test_every_refusal_has_its_exit_code(status: int, code: str, wanted: Exit) -> None:
    assert exit_of(ApiError(code=code, status=status)) is wanted


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_error_says_what_happened_and_what_to_do(language: str) -> None:
    messages = Messages(language)
    numbers = {"claim_s": 3600, "remaining_s": 60, "pending_s": 0}
    lines = explain(
        ApiError(code="BUDGET_EXHAUSTED", status=409, title="T", detail="D", numbers=numbers), messages
    )
    assert lines[0] == "T"
    assert "kezek quota" in lines[2]
    assert lines[3].endswith("BUDGET_EXHAUSTED (409)")
    assert "D" not in lines[1:]
    assert explain(ApiError(code="X", status=418, title="T", detail="D"), messages)[:2] == ["T", "D"]
    assert "http://a" in explain(NetworkError("http://a", "refused"), messages)[0]
    too_large = UsageFaultError("bundle.too_large", size=9 * 1024**2, limit=8 * 1024**2, largest="data.bin")
    said = explain(too_large, messages)[0]
    assert "data.bin" in said
    assert messages.size(8 * 1024**2) in said


def commands() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def walk(command: object, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            options = {option for each in command.params for option in each.opts if option.startswith("--")}  # type: ignore[attr-defined]
            found[name] = options - {"--help"}
            return
        for key, each in inner.items():
            if each.hidden:
                continue
            walk(each, f"{name} {key}")

    walk(typer.main.get_command(app), "kezek")
    return found


def test_the_documentation_names_every_command_option_and_exit_code() -> None:
    text = DOCS.read_text("utf-8")
    sections = {part.partition("\n")[0].strip("`"): part for part in text.split("\n### ")[1:]}
    assert sections.keys() == commands().keys()
    for name, options in commands().items():
        assert set(re.findall(r"`(--[a-z-]+)", sections[name])) | {"--output"} == options, name
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {code.value for code in Exit}


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_explanation_is_told_field_by_field(language: str) -> None:
    messages = Messages(language)
    expected = {
        "from_at": "2026-03-02T09:20:00Z",
        "to_at": "2026-03-02T09:55:00Z",
        "is_learned": True,
        "learned_from": 312,
        "stated_percent": 80,
    }
    whole = {
        "job_id": 18,
        "reason": {"code": "NO_CAPACITY", "text": "GPUs are missing"},
        "place": 2,
        "ahead": [{"job_id": 16, "rule": "submitted", "text": "earlier"}],
        "starts_by": "2026-03-02T10:00:00Z",
        "expected": expected,
        "changes": [
            {"what": "gpus", "old": 8, "new": 4, "is_now": True},
            {"what": "walltime_s", "old": 7_200, "new": 3_600, "is_now": True},
            {"what": "nodes", "old": 2, "new": None, "is_now": True},
            {"what": "flavor", "old": "h200", "new": "a100", "is_now": False},
            {"what": "patience", "old": 1, "new": 2, "is_now": True},
        ],
        "starts_told": [
            {"told_at": "2026-03-02T09:10:00Z", "cause": "window", "text": "put off"},
            {"told_at": "2026-03-02T09:00:00Z", "cause": None, "text": "planned"},
        ],
    }
    pairs = show_planning.why_pairs(Fields(whole, "explanation"), messages)
    heads = [head for head, _ in pairs]
    assert heads == [
        "id", "reason", "ahead", "ahead", "planned", "expected",
        "change", "change", "change", "change_possible", "change", "told", "told",
    ]  # fmt: skip
    told = dict(pairs)
    assert "80 %" in told["expected"]
    assert "312" in told["expected"]
    assert "a100" in told["change_possible"]
    assert told["change"] == "patience: 1 → 2"
    assert re.fullmatch(r"2026-03-02 14:00\S*: planned", told["told"])
    moved = {"job_id": 18, **whole["starts_told"][0]}
    (row,) = show_planning.moved_rows([Fields(moved, "moved")], messages)
    assert (row[0], row[2], row[3]) == ("18", "window", "put off")
    assert {f"head.{head}" for head in show_planning.MOVED_HEADS} <= set(catalogue(language))
    assert {f"head.{head}" for head in heads} <= set(catalogue(language))
    unlearned = whole | {"expected": expected | {"is_learned": False, "stated_percent": None}}
    assert "%" not in dict(show_planning.why_pairs(Fields(unlearned, "explanation"), messages))["expected"]
