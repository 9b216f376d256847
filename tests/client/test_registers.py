"""Localisation, registers and reports on the command line, against a real platform over HTTP."""

import json
from datetime import timedelta

import pytest
from kezek.registers import MAX_ROWS, digest_of, read_rows, save

from kezek import UsageFaultError
from products.reports.build import verify
from store import clock

YEAR = clock.now().astimezone(clock.ALMATY).year - 1
PERIOD = ["--from", f"{YEAR}-01-01", "--to", f"{YEAR}-12-31"]
NAMES = ["--name-kk", "Цифр танығыш", "--name-ru", "Распознаватель", "--name-en", "Digit reader"]


def give_role(platform, role):
    user = platform.call("POST", "/v1/users", {"name": f"a-{role}", "organisation": None})
    platform.call("POST", f"/v1/users/{user['id']}/roles", {"role": role, "project": None})
    return platform.call("POST", "/v1/tokens", {"user_id": user["id"], "scopes": ["write"]})["secret"]


def test_from_a_csv_file_to_the_form_and_the_registers(platform):
    platform.env["KEZEK_PROJECT"] = "aurora"
    opened = platform.kezek("localisation", "open", "reader", *NAMES)
    assert opened.out == "Dossier reader opened. Enter its books: kezek localisation import reader\n"
    platform.write("parties.csv", "id,is_foreign,acts_for\nteam,no,\ncloud,yes,\n")
    platform.write("contracts.csv", "number,party\n1,team\n2,cloud\n")
    platform.write(
        "payments.csv",
        f"contract,number,paid_on,amount,currency\n1,p1,{YEAR}-02-01,800.00,KZT\n2,p2,{YEAR}-03-01,1.00,USD\n",
    )
    platform.write("rates.csv", f"currency,on,tenge\nUSD,{YEAR}-03-01,200.5\n")
    books = ["--parties", "parties.csv", "--contracts", "contracts.csv", "--payments", "payments.csv"]
    entered = platform.kezek("localisation", "import", "reader", *PERIOD, *books)
    assert entered.out == "Entered: 6, there already: 0, corrected: 0.\n"
    missing = platform.kezek("localisation", "show", "reader", *PERIOD)
    assert missing.code == 4
    assert "kezek localisation import --rates FILE" in missing.err
    assert platform.kezek("localisation", "import", "reader", *PERIOD, "--rates", "rates.csv").code == 0
    again = platform.kezek(
        "localisation", "import", "reader", *PERIOD, *books, "--rates", "rates.csv", "--correct"
    )
    assert again.out == "Entered: 0, there already: 7, corrected: 0.\n"
    shown = platform.kezek("localisation", "show", "reader", *PERIOD, "--applied-on", f"{YEAR + 1}-01-15")
    told = dict(line.split("\t") for line in shown.out.splitlines())
    assert (told["Localisation share"], told["Reaches 80 %"]) == ("79.96%", "no"), shown.err
    assert told["Abroad in the year before"] == f"{YEAR}: 20.04%"
    listed = platform.kezek("localisation", "payments", "reader").out.splitlines()
    assert [line.split("\t")[1:4] for line in listed[1:]] == [["p1", "team", "no"], ["p2", "cloud", "yes"]]

    who = ["--responsible", "Ә. Үлгі", "--contact", "+7 700"]
    made = platform.kezek("localisation", "report", "reader", *PERIOD, *who, "--save-as", "share.pdf")
    assert made.code == 4, "this organisation has no BIN"
    assert "BAD_BIN" in made.err
    assert not (platform.home / "share.pdf").exists()
    removed = platform.kezek(
        "localisation", "remove", "reader", "--contract", "2", "--number", "p2", "-o", "json"
    )
    assert json.loads(removed.out) == {"contract": "2", "number": "p2"}


def test_documents_remind_and_officials_record(platform):
    platform.env["KEZEK_PROJECT"] = "aurora"
    assert platform.kezek("localisation", "open", "reader", *NAMES, "--kind", "software").code == 0
    last = (clock.now().astimezone(clock.ALMATY) + timedelta(days=10)).date().isoformat()
    paper = platform.write("protocol.pdf", "paper")
    document = [
        "--code",
        "test-protocols",
        "--number",
        "7",
        "--issued-on",
        f"{YEAR}-01-01",
        "--expires-on",
        last,
    ]
    added = platform.kezek(
        "registers", "document", "reader", *document, "--file", "protocol.pdf", "-o", "json"
    )
    assert json.loads(added.out)["sha256"] == digest_of(paper)
    (due,) = [line.split("\t") for line in platform.kezek("registers", "reminders").out.splitlines()[1:]]
    assert due[:3] + due[4:6] == ["reader", "test protocols", "7", "10", "renew now"]
    assert "қазір жаңарту керек" in platform.kezek("registers", "reminders", KEZEK_LANG="kk").out
    standing = platform.kezek("registers", "show", "reader").out
    assert "localisation share (Order 604)\tno\tyes" in standing
    assert "assurance level 4 or test protocols\tyes" in standing
    assert platform.kezek("registers", "list").out.splitlines()[1].split("\t")[:3] == [
        "reader",
        "Digit reader",
        "software",
    ]

    reviewer = {"KEZEK_TOKEN": give_role(platform, "reviewer")}
    day = ["--on", f"{YEAR}-06-01"]
    assert platform.kezek("registers", "enter", "reader", "--register", "trusted", *day).code == 5
    entered = platform.kezek("registers", "enter", "reader", "--register", "trusted", *day, **reviewer)
    assert entered.out == "Recorded for dossier reader.\n"
    early = platform.kezek("registers", "enter", "reader", "--register", "producers", *day, **reviewer)
    assert (early.code, "section 3" in early.err) == (4, True)
    left = platform.kezek(
        "registers",
        "leave",
        "reader",
        "--register",
        "trusted",
        "--on",
        f"{YEAR}-07-01",
        "-o",
        "json",
        **reviewer,
    )
    assert json.loads(left.out)["left_on"] == f"{YEAR}-07-01"
    assert platform.kezek("registers", "check", "reader", *day, "--kept", **reviewer).code == 4
    assert len(platform.kezek("registers", "check-list", **reviewer).out.splitlines()) == 1
    assert platform.kezek("registers", "withdraw", "reader", "1").code == 0
    assert "runs out" in platform.kezek("registers", "reminders").err
    stranger = platform.kezek("registers", "show", "reader", KEZEK_TOKEN=platform.stranger)
    assert stranger.code == 3


def test_reports_are_issued_listed_and_downloaded(platform):
    operator = {"KEZEK_TOKEN": platform.operator}
    month = f"{clock.now().astimezone(clock.ALMATY):%Y-%m}"
    assert platform.kezek("reports", "list", **operator).err == "No report was issued yet\n"
    issued = platform.kezek("reports", "issue", "monthly", month, "-o", "json", **operator)
    digest = json.loads(issued.out)["sha256"]
    assert platform.kezek("reports", "list", **operator).out.splitlines()[1].split("\t")[3] == digest
    assert platform.kezek("reports", "list").code == 5
    future = platform.kezek("reports", "issue", "yearly", "2199", **operator)
    assert future.code == 2
    for language in ("kk", "ru", "en"):
        saved = f"{language}.pdf"
        asked = ["--language", language, "--save-as", saved]
        done = platform.kezek("reports", "download", digest, *asked, **operator)
        assert done.out.endswith(f"kezek-server report verify {saved}\n"), done.err
        found = verify((platform.home / saved).read_bytes())
        assert (found.digest, found.language, found.problem) == (digest, language, None)
        assert platform.kezek("reports", "download", digest, *asked, **operator).code == 2


@pytest.mark.parametrize(
    ("kind", "content", "key"),
    [
        ("parties", "id\na\n", "csv_columns"),
        ("parties", "id,is_foreign,colour\na,no,red\n", "csv_columns"),
        ("parties", "id,id,is_foreign\na,a,no\n", "csv_columns"),
        ("parties", "id,is_foreign\na,maybe\n", "csv_flag"),
        ("contracts", "number,party\n1\n", "csv_row"),
        ("contracts", "number,party\n1,a,b\n", "csv_row"),
        ("contracts", 'number,party\n"1,a\n', "csv_unreadable"),
        ("contracts", "number,party\n" + "1,a\n" * (MAX_ROWS + 1), "csv_too_large"),
        ("contracts", "number,party\n" + "1," + "a" * 300_000, "csv_too_large"),
        ("contracts", "", "csv_columns"),
    ],
)
def test_a_file_that_is_none_is_refused_before_anything_is_sent(tmp_path, kind, content, key):
    path = tmp_path / "rows.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageFaultError, match=rf"usage\.{key}\b"):
        read_rows(path, kind)


def test_rows_are_read_as_spreadsheets_write_them(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("\ufeffid,is_foreign,controlled_by\r\n Әріптес ,YES,\r\nb,0,Әріптес\r\n".encode())
    assert read_rows(path, "parties") == [
        {"id": "Әріптес", "is_foreign": True},
        {"id": "b", "is_foreign": False, "controlled_by": "Әріптес"},
    ]
    path.write_bytes(b"id,is_foreign\n\xff,no\n")
    for bad in (path, tmp_path / "none.csv"):
        with pytest.raises(UsageFaultError, match=r"usage\.csv_unreadable\b"):
            read_rows(bad, "parties")


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    with pytest.raises(UsageFaultError, match=r"bundle\.unreadable\b"):
        digest_of(tmp_path / "none.pdf")
    kept = tmp_path / "kept.pdf"
    save(b"1", kept)
    with pytest.raises(UsageFaultError, match=r"usage\.file_exists\b"):
        save(b"2", kept)
    assert kept.read_bytes() == b"1"
    with pytest.raises(UsageFaultError, match=r"usage\.not_saved\b"):
        save(b"2", tmp_path / "none" / "kept.pdf")


def test_nothing_to_import_is_said_before_anything_is_sent(platform):
    done = platform.kezek("localisation", "import", "reader", *PERIOD)
    assert (done.code, "--parties" in done.err) == (2, True)
