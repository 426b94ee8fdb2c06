"""Contacts into the database by the ten thousand: staged by COPY, judged as a whole, merged in one statement.

PostgreSQL refuses COPY into a table with row-level security, so rows go to temporary tables first
(docs/decisions/0005-contact-import.md has the figures). Nothing reaches `Contact` before the last line
was read, so a file that turns out unreadable leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from django.db import connection
from django.utils.timezone import now

from campaigns.contact_rows import ContactRow, NotAContact, read_row

CHUNK = 10_000
KEPT_REJECTIONS = 10_000

Progress = Callable[[int], None]
Rejection = tuple[int, list[str]]


@dataclass(slots=True)
class ImportReport:
    """What became of every row. `rejected` holds (row, reasons), at most the first `KEPT_REJECTIONS`.

    A row that says nothing new counts as `unchanged`; one that a later row of the same file replaces is
    rejected with that reason.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected_count: int = 0
    rejected: list[Rejection] = field(default_factory=list)


class ContactImport:
    """One import, from its first row to its report. Runs inside one tenant's scope, so in one transaction."""

    def __init__(self, tenant_id: int, *, on_rejected: Callable[[int, list[str]], None] | None) -> None:
        # Python's clock and not now(): it tells this import's rows from another's in one transaction.
        self.values: dict[str, Any] = {"tenant": tenant_id, "now": now()}
        self.on_rejected = on_rejected
        self.report = ImportReport()
        self.staged = self.staged_accounts = 0

    def reject(self, row: int, errors: list[str]) -> None:
        self.report.rejected_count += 1
        if len(self.report.rejected) < KEPT_REJECTIONS:
            self.report.rejected.append((row, errors))
        if self.on_rejected:
            self.on_rejected(row, errors)

    def run(
        self, rows: Iterable[tuple[int, object]], *, region: str | None, on_progress: Progress | None
    ) -> ImportReport:
        with connection.cursor() as cursor:
            # Two imports of one tenant would meet the same contacts in different orders: a deadlock.
            cursor.execute(LOCK, self.values)
            cursor.execute(STAGE)
        self._stage(rows, region, on_progress)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE staged_contact; ANALYZE staged_account")
        self._drop_repeated()
        if self.staged_accounts:
            self._drop_taken_accounts()
        self._merge()
        if self.staged_accounts:
            self._merge_accounts()
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE staged_contact, staged_account")
            if self.report.created >= CHUNK:
                # Whoever reads these rows next (a segment, a launch) should not wait for autovacuum.
                cursor.execute("ANALYZE campaigns_contact, campaigns_socialaccount")
        self.report.rejected.sort()
        return self.report

    def _stage(
        self, rows: Iterable[tuple[int, object]], region: str | None, on_progress: Progress | None
    ) -> None:
        rows = iter(rows)
        read = 0
        while chunk := list(islice(rows, CHUNK)):
            contacts: list[tuple[int, ContactRow]] = []
            for number, raw in chunk:
                try:
                    if isinstance(raw, NotAContact):
                        raise raw
                    contacts.append((number, read_row(raw, region=region)))
                except NotAContact as error:
                    self.reject(number, error.errors)
            self._copy(contacts)
            read += len(chunk)
            if on_progress:
                on_progress(read)

    def _copy(self, contacts: list[tuple[int, ContactRow]]) -> None:
        accounts = [(number, account) for number, row in contacts for account in row.accounts]
        with connection.cursor() as cursor:
            with cursor.copy("COPY staged_contact FROM STDIN") as copy:
                for number, row in contacts:
                    copy.write_row(
                        (
                            number,
                            row.external_id,
                            row.phone,
                            row.email,
                            row.name,
                            row.timezone,
                            row.phone_zone,
                            orjson.dumps(row.attributes).decode() if row.attributes else "{}",
                        )
                    )
            if accounts:
                with cursor.copy("COPY staged_account FROM STDIN") as copy:
                    for number, account in accounts:
                        copy.write_row((number, account.platform, account.user_id, account.username))
        self.staged += len(contacts)
        self.staged_accounts += len(accounts)

    def _drop_repeated(self) -> None:
        """Let the last row of a contact count, and report the earlier ones."""
        with connection.cursor() as cursor:
            cursor.execute(DROP_REPEATED)
            for row, external_id, last in cursor:
                self.reject(row, [f"external_id: {external_id} comes again in row {last}, which counts"])
                self.staged -= 1
            cursor.execute(DROP_ORPHANS)

    def _drop_taken_accounts(self) -> None:
        """Reject rows that claim an account of another contact, stored or earlier in the file."""
        for statement in (TAKEN_BY_STORED, TAKEN_IN_FILE):
            with connection.cursor() as cursor:
                cursor.execute(statement, self.values)
                reasons: dict[int, list[str]] = {}
                for row, platform, name, holder in cursor:
                    reasons.setdefault(row, []).append(f"accounts: {platform} {name} belongs to {holder}")
                for row, errors in reasons.items():
                    self.reject(row, errors)
                    self.staged -= 1
                for table in ("staged_contact", "staged_account"):
                    cursor.execute(f"DELETE FROM {table} WHERE row = ANY(%s)", [list(reasons)])

    def _merge(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(MERGE, self.values)
            created, updated = cursor.fetchone()
        self.report.created, self.report.updated = created, updated
        self.report.unchanged = self.staged - created - updated

    def _merge_accounts(self) -> None:
        """Store the accounts; a contact whose accounts alone changed counts as updated."""
        with connection.cursor() as cursor:
            for statement in MATCH_ACCOUNTS:
                cursor.execute(statement, self.values)
            cursor.execute(MERGE_ACCOUNTS, self.values)
            (touched,) = cursor.fetchone()
        self.report.updated += touched
        self.report.unchanged -= touched


LOCK = "SELECT pg_advisory_xact_lock(hashtext('contact import'), %(tenant)s::int)"

STAGE = """
    DROP TABLE IF EXISTS pg_temp.staged_contact, pg_temp.staged_account, pg_temp.matched_account;
    CREATE TEMP TABLE staged_contact (
        row int, external_id text, phone text, email text, name text, timezone text, phone_zone text,
        attributes jsonb
    ) ON COMMIT DROP;
    CREATE TEMP TABLE staged_account (row int, platform text, user_id text, username text) ON COMMIT DROP;
"""

DROP_REPEATED = """
    WITH last AS (
        SELECT external_id, max(row) AS row FROM staged_contact GROUP BY external_id HAVING count(*) > 1
    )
    DELETE FROM staged_contact s USING last
     WHERE s.external_id = last.external_id AND s.row < last.row
    RETURNING s.row, s.external_id, last.row
"""

DROP_ORPHANS = """
    DELETE FROM staged_account a
     WHERE NOT EXISTS (SELECT FROM staged_contact s WHERE s.row = a.row)
"""

# A contact's accounts under each of their two names.
_NAMES = """
    WITH name AS (
        SELECT row, platform, 'user_id' AS kind, user_id AS name FROM staged_account WHERE user_id <> ''
        UNION ALL
        SELECT row, platform, 'username', username FROM staged_account WHERE username <> ''
    )
"""

# Look-ups are correlated subqueries, one index probe a row: right after a tenant's first import the
# planner's statistics say that it has no rows, and a join would read all of them for each row.
# `<> ''` repeats the partial indexes' own condition, without which they cannot be used.
TAKEN_BY_STORED = f"""
    {_NAMES}, stored AS (
        SELECT row, platform, name, CASE kind
            WHEN 'user_id' THEN (
                SELECT contact_id FROM campaigns_socialaccount a
                 WHERE a.tenant_id = %(tenant)s AND a.platform = n.platform
                   AND a.user_id = n.name AND a.user_id <> '')
            ELSE (
                SELECT contact_id FROM campaigns_socialaccount a
                 WHERE a.tenant_id = %(tenant)s AND a.platform = n.platform
                   AND a.username = n.name AND a.username <> '')
            END AS contact_id
          FROM name n
    ), held AS (
        SELECT row, platform, name,
               (SELECT external_id FROM campaigns_contact c WHERE c.id = contact_id) AS holder
          FROM stored WHERE contact_id IS NOT NULL
    )
    SELECT row, platform, held.name, 'contact ' || holder
      FROM held JOIN staged_contact s USING (row)
     WHERE holder <> s.external_id
"""

TAKEN_IN_FILE = f"""
    {_NAMES}, claim AS (
        SELECT *, min(row) OVER (PARTITION BY platform, kind, name) AS first FROM name
    )
    SELECT row, platform, name, 'row ' || first FROM claim WHERE row > first
"""

# What a row leaves out stays as it is. A new phone number brings its own time zone, unless one is given.
MERGE = """
    WITH merged AS (
        INSERT INTO campaigns_contact AS c
            (tenant_id, external_id, phone, email, name, timezone, attributes, created_at, updated_at)
        SELECT %(tenant)s, s.external_id,
               coalesce(nullif(s.phone, ''), old.phone, ''),
               coalesce(nullif(s.email, ''), old.email, ''),
               coalesce(nullif(s.name, ''), old.name, ''),
               CASE WHEN s.timezone <> '' THEN s.timezone
                    WHEN s.phone <> '' AND s.phone IS DISTINCT FROM old.phone THEN s.phone_zone
                    ELSE coalesce(nullif(old.timezone, ''), s.phone_zone) END,
               coalesce(old.attributes, '{}') || s.attributes,
               %(now)s, %(now)s
          FROM staged_contact s
          LEFT JOIN LATERAL (
            SELECT * FROM campaigns_contact c
             WHERE c.tenant_id = %(tenant)s AND c.external_id = s.external_id
            OFFSET 0
          ) old ON true
         ORDER BY s.row
        ON CONFLICT (tenant_id, external_id) DO UPDATE
           SET phone = excluded.phone, email = excluded.email, name = excluded.name,
               timezone = excluded.timezone, attributes = excluded.attributes,
               updated_at = excluded.updated_at
         WHERE (c.phone, c.email, c.name, c.timezone, c.attributes)
               IS DISTINCT FROM
               (excluded.phone, excluded.email, excluded.name, excluded.timezone, excluded.attributes)
        RETURNING c.xmax = 0 AS created  -- an inserted row has had no updater
    )
    SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created) FROM merged
"""

# Each account and the stored one it is: by user id, which never changes, before user name, which may.
# Further rows of the same contact that bear the other name are the same account seen before: dropped.
MATCH_ACCOUNTS = (
    """
    CREATE TEMP TABLE matched_account ON COMMIT DROP AS
    SELECT c.id AS contact_id, c.updated_at <> %(now)s AS unchanged,
           a.platform, a.user_id, a.username, m.id AS account_id, m.others
      FROM staged_account a
      JOIN staged_contact s ON s.row = a.row
      CROSS JOIN LATERAL (
        SELECT id, updated_at FROM campaigns_contact c
         WHERE c.tenant_id = %(tenant)s AND c.external_id = s.external_id
        OFFSET 0
      ) c
      LEFT JOIN LATERAL (
        SELECT o.id, array_remove(array_agg(o.id) OVER (), o.id) AS others
          FROM campaigns_socialaccount o
         WHERE o.tenant_id = %(tenant)s AND o.contact_id = c.id AND o.platform = a.platform
           AND (a.user_id <> '' AND o.user_id = a.user_id OR a.username <> '' AND o.username = a.username)
         ORDER BY a.user_id <> '' AND o.user_id = a.user_id DESC
         LIMIT 1
      ) m ON true
    """,
    "CREATE INDEX ON matched_account (account_id)",
    "ANALYZE matched_account",
    """
    DELETE FROM campaigns_socialaccount
     WHERE tenant_id = %(tenant)s AND id IN (SELECT unnest(others) FROM matched_account)
    """,
)

MERGE_ACCOUNTS = """
    WITH changed AS (
        UPDATE campaigns_socialaccount a
           SET user_id = coalesce(nullif(m.user_id, ''), a.user_id),
               username = coalesce(nullif(m.username, ''), a.username)
          FROM matched_account m
         WHERE a.tenant_id = %(tenant)s AND a.id = m.account_id
           AND (m.user_id NOT IN ('', a.user_id) OR m.username NOT IN ('', a.username))
        RETURNING m.contact_id, m.unchanged
    ), added AS (
        INSERT INTO campaigns_socialaccount (tenant_id, contact_id, platform, user_id, username)
        SELECT %(tenant)s, contact_id, platform, user_id, username
          FROM matched_account WHERE account_id IS NULL
    ), touched AS (
        SELECT contact_id FROM changed WHERE unchanged
        UNION
        SELECT contact_id FROM matched_account WHERE account_id IS NULL AND unchanged
    ), dated AS (
        UPDATE campaigns_contact c SET updated_at = %(now)s
          FROM touched WHERE c.tenant_id = %(tenant)s AND c.id = touched.contact_id
        RETURNING c.id
    )
    SELECT count(*) FROM dated
"""
