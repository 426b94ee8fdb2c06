"""`manage.py demo`: everything real from the CSV file to the last status, twice, and broken off between."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from random import Random

import phonenumbers
import psutil
import psycopg
import pytest

from campaigns.contact_files import read_contacts
from campaigns.contact_rows import read_row
from config.demo.people import mobile, people, write_csv
from config.localpg import PROJECT
from tests.config.processes import MANAGE, environment, family, gone, manage, until


def counts(database: str, question: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database) as connection:
        connection.execute("SET ROLE turnout_all")
        return connection.execute(question).fetchall()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_sends_to_everybody_also_after_one_that_was_broken_off(
    database: str, port: int, tmp_path: Path
) -> None:
    # broken off while messages go out
    output = tmp_path / "first"
    with output.open("w") as file:
        first = subprocess.Popen(
            [*MANAGE, "demo", "--port", str(port), "--contacts", "400", "--tenants", "2"],
            env=environment(DATABASE_URL=database),
            cwd=PROJECT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    accepted = "SELECT 1 FROM messaging_message WHERE accepted_at IS NOT NULL LIMIT 1"
    until(lambda: "contacts from a CSV file" in output.read_text(), seconds=90, what="contacts")
    until(lambda: counts(database, accepted), seconds=60, what="first message")
    everybody = family(psutil.Process(first.pid))
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 1
    assert output.read_text().splitlines()[-1] == "CommandError: stopped"
    assert [pid for pid in everybody if not gone(pid)] == []
    unsettled = "SELECT count(*) FROM messaging_message WHERE state IN ('claimed', 'sending')"
    assert counts(database, unsettled) == [(0,)], "what was claimed was given back, what had left was settled"

    # the next one sends its own to everybody, and what the first had left
    second = manage(
        "demo", "--exit", "--port", str(port), "--contacts", "150", "--tenants", "2", DATABASE_URL=database
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert "150 of 150 accepted, every status applied" in second.stdout
    told = re.search(r"sent ([\d,]+) statuses, of which ([\d,]+) are applied", second.stdout)
    assert told
    assert told[1] == told[2] != "0"
    by_broadcast = counts(
        database,
        "SELECT count(*), count(accepted_at), count(sent_at), count(delivered_at), "
        "count(DISTINCT contact_id) FROM messaging_message GROUP BY broadcast_id ORDER BY broadcast_id",
    )
    assert [row[:2] for row in by_broadcast] == [(400, 400), (150, 150)]
    assert by_broadcast[1] == (150,) * 5
    assert counts(database, "SELECT count(*) FROM engine_receipt WHERE applied_at IS NULL") == [(0,)]
    assert counts(database, "SELECT count(*) FROM tenants_tenant") == [(2,)]


def test_its_people_are_valid_contacts_and_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "contacts.csv"
    write_csv(path, 300, prefix="c1")
    with path.open("rb") as file:
        rows = [read_row(raw) for _, raw in read_contacts(file)]
    assert len(rows) == 300
    assert len({row.phone for row in rows}) == len({row.email for row in rows}) == 300
    assert all(phonenumbers.is_valid_number(phonenumbers.parse(row.phone)) for row in rows)
    assert {row.attributes["plan"] for row in rows} == {"free", "plus", "family"}
    assert len({row.timezone or row.phone_zone for row in rows}) > 5
    assert any(row.accounts for row in rows)
    assert list(people(20, prefix="c1")) == list(people(20, prefix="c1"))
    assert list(people(20, prefix="c1")) != list(people(20, prefix="c2"))


def test_no_number_is_made_twice() -> None:
    taken: set[str] = set()
    made = [mobile("AT", Random(1), taken) for _ in range(3)]  # the same dice each time
    assert len(set(made)) == 3
