"""Many rows at once: each is told what became of it, and the one at fault is refused alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from django.db import connection

from engine.inbox.group_commit import (
    ACCEPTED,
    DUPLICATE,
    STORE_RECEIPTS,
    GroupCommit,
    IntakeDown,
    IntakeFull,
    Kind,
    RowRefused,
    Verdict,
)
from engine.models import Receipt
from tenants.models import Tenant
from tenants.scope import ALL_ROWS_ROLE
from tests.intake import end_connections

pytestmark = pytest.mark.django_db(transaction=True)

STORE: Final = """
INSERT INTO test_event (tenant_id, event_id, amount, body)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[])
ON CONFLICT DO NOTHING RETURNING tenant_id, event_id
"""
KEY: Final = (0, 1)


@pytest.fixture(autouse=True)
def table(transactional_db: None) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE test_event (id bigint GENERATED ALWAYS AS IDENTITY, tenant_id bigint NOT NULL,"
            " event_id text NOT NULL, amount int NOT NULL, body text NOT NULL CHECK (body <> 'poison'),"
            " UNIQUE (tenant_id, event_id));"
            f"GRANT ALL ON test_event TO {ALL_ROWS_ROLE}"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE test_event")
    connection.close()


def commit(talk: Callable[[GroupCommit], Awaitable[Any]], statement: Any = STORE, **options: Any) -> Any:
    async def run() -> Any:
        events = GroupCommit(statement, **({"key": KEY} | options))
        events.start()
        try:
            return await talk(events)
        finally:
            await events.stop(seconds=5)

    return asyncio.run(run())


def event(name: object, *, tenant: int = 1, amount: Any = 0, body: Any = "") -> tuple[Any, ...]:
    return (tenant, f"e{name}", amount, body)


def stored() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT event_id FROM test_event ORDER BY id")
        return [name for (name,) in cursor.fetchall()]


def kinds(verdicts: list[Verdict]) -> Counter[str]:
    return Counter(verdict.kind for verdict in verdicts)


def test_duplicates_inside_a_batch_and_across_batches_are_told_and_the_first_is_accepted() -> None:
    async def talk(events: GroupCommit) -> Any:
        first = await events.put_many([event(1), event(2), event(1), event(1, tenant=2)], size=1)
        return first, await events.put_many([event(3), event(2)], size=1), await events.put(event(3), size=1)

    first, second, alone = commit(talk)
    assert first == [ACCEPTED, ACCEPTED, DUPLICATE, ACCEPTED]
    assert second == [ACCEPTED, DUPLICATE]
    assert alone == DUPLICATE
    assert stored() == ["e1", "e2", "e1", "e3"]


AT_FAULT: list[tuple[str, dict[str, Any], str]] = [
    ("against a constraint", {"body": "poison"}, "check constraint"),
    ("a NUL in a text", {"body": "a\0b"}, "NUL"),
    ("half a character", {"body": "\ud800"}, "surrogates"),
    ("no value where one must be", {"body": None}, "not-null"),
    ("a number larger than the column", {"amount": 2**40}, "out of range"),
    ("a number larger than any", {"amount": 2**70}, ""),
]


@pytest.mark.parametrize(("fields", "why"), [c[1:] for c in AT_FAULT], ids=[c[0] for c in AT_FAULT])
def test_one_row_at_fault_among_500_is_refused_alone_and_the_others_keep_their_order(
    fields: dict[str, Any], why: str
) -> None:
    rows = [event(number) for number in range(500)]
    rows[317] = event(317, **fields)

    async def talk(events: GroupCommit) -> Any:
        verdicts = await events.put_many(rows, size=500)
        return verdicts, events.commits

    verdicts, commits = commit(talk)
    assert kinds(verdicts) == {Kind.ACCEPTED: 499, Kind.REFUSED: 1}
    assert verdicts[317].kind is Kind.REFUSED
    assert why in verdicts[317].why
    assert stored() == [f"e{number}" for number in range(500) if number != 317]
    assert commits < 20


def test_a_row_at_fault_is_told_to_its_own_caller_only() -> None:
    async def talk(events: GroupCommit) -> list[Any]:
        asked = [events.put(event(n, body="poison" if n == 7 else ""), size=1) for n in range(20)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = commit(talk)
    assert isinstance(answers[7], RowRefused)
    assert answers[:7] + answers[8:] == [ACCEPTED] * 19


def test_a_statement_that_is_wrong_refuses_nobody() -> None:
    async def talk(events: GroupCommit) -> None:
        with pytest.raises(IntakeDown):
            await events.put_many([event(1), event(2)], size=1)

    commit(talk, STORE.replace("test_event", "test_evnt"))


def test_a_connection_cut_between_batches_loses_nothing() -> None:
    async def talk(events: GroupCommit) -> Any:
        answers = []
        for start in range(0, 3000, 600):
            answers.append(
                await events.put_many(
                    [event(n, body="poison" if n % 500 == 7 else "") for n in range(start, start + 600)],
                    size=1,
                )
            )
            end_connections()
        return [verdict for answer in answers for verdict in answer]

    verdicts = commit(talk)
    assert kinds(verdicts) == {Kind.ACCEPTED: 2994, Kind.REFUSED: 6}
    assert stored() == [f"e{n}" for n in range(3000) if n % 500 != 7]


def test_a_deadlock_is_tried_again() -> None:
    with connection.cursor() as cursor:  # the first two statements meet one
        cursor.execute(
            "CREATE SEQUENCE test_met; GRANT ALL ON SEQUENCE test_met TO PUBLIC;"
            "CREATE FUNCTION test_meet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('test_met') <= 2 THEN RAISE EXCEPTION 'met' USING ERRCODE = '40P01'; END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER test_meet BEFORE INSERT ON test_event FOR EACH ROW EXECUTE FUNCTION test_meet()"
        )
    try:
        assert commit(lambda events: events.put_many([event(1), event(2)], size=1)) == [ACCEPTED] * 2
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION test_meet CASCADE; DROP SEQUENCE test_met")


def test_a_full_queue_takes_all_rows_of_a_caller_or_none() -> None:
    async def talk(events: GroupCommit) -> Any:
        first = asyncio.ensure_future(events.put_many([event(n) for n in range(8)], size=10))
        await asyncio.sleep(0)
        for rows, size in (([event(8), event(9), event(10)], 1), ([event(8)], 91)):
            with pytest.raises(IntakeFull):
                await events.put_many(rows, size=size)
        second = events.put_many([event(8), event(9)], size=90)
        return await first, await second, (events.waiting, events.waiting_size)

    first, second, left = commit(talk, rows=10, size=100)
    assert (first, second, left) == ([ACCEPTED] * 8, [ACCEPTED] * 2, (0, 0))


def test_a_caller_that_goes_away_leaves_its_rows_and_takes_no_room_with_it() -> None:
    async def talk(events: GroupCommit) -> tuple[int, int]:
        leaving = asyncio.create_task(events.put_many([event(1), event(2)], size=50))
        await asyncio.sleep(0)
        leaving.cancel()
        await events.put(event(3), size=50)
        return events.waiting, events.waiting_size

    assert commit(talk, size=100) == (0, 0)
    assert stored() == ["e1", "e2", "e3"]


def test_rows_behind_a_policy_go_in_with_the_role_that_it_lets() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE test_event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            f"CREATE POLICY every ON test_event TO {ALL_ROWS_ROLE} USING (true)"
        )
    rows = [event(1), event(2)]
    refused = commit(lambda events: events.put_many(rows, size=1))
    assert kinds(refused) == {Kind.REFUSED: 2}
    assert "row-level security" in refused[0].why

    async def talk(events: GroupCommit) -> Any:
        before = await events.put_many(rows[:1], size=1)
        end_connections()  # the new connection has the role too
        return before + await events.put_many(rows[1:], size=1)

    assert commit(talk, role=ALL_ROWS_ROLE) == [ACCEPTED] * 2


def test_a_receipt_keeps_whose_it_is_and_its_size() -> None:
    ann = Tenant.objects.create(name="Ann", slug="ann")
    rows = [
        ("whatsapp", None, b"platform's"),
        ("meta", ann.pk, b"\x00" * 3_000_000),
        ("meta", ann.pk + 9, b""),
    ]
    verdicts = commit(lambda events: events.put_many(rows, size=1), STORE_RECEIPTS, key=())
    assert kinds(verdicts) == {Kind.ACCEPTED: 2, Kind.REFUSED: 1}
    found = Receipt.objects.order_by("id").values_list("provider", "tenant_id", "size")
    assert list(found) == [("whatsapp", None, 10), ("meta", ann.pk, 3_000_000)]
