"""Contacts, one at a time or by the hundred thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import IO

from django.db import IntegrityError, transaction
from django.utils.timezone import now

from campaigns import phones
from campaigns.contact_files import read_contacts
from campaigns.contact_rows import Account, Unusable, check_attributes
from campaigns.imports import ContactImport, ImportReport, Progress
from campaigns.models import Contact, SocialAccount
from tenants.errors import ActionRefused
from tenants.scope import tenant_scope


class TooManyRows(ActionRefused):
    """More rows came than one request may bring; nothing went in."""


def import_contacts(
    *,
    tenant_id: int,
    rows: Iterable[object] | None = None,
    file: IO[bytes] | None = None,
    region: str | None = None,
    max_rows: int | None = None,
    on_progress: Progress | None = None,
    on_rejected: Callable[[int, list[str]], None] | None = None,
) -> ImportReport:
    """Create and update contacts by their external_id, from objects as in the API or from a CSV file.

    Good rows go in whatever the others are like; what a row leaves out stays as it is. Rows are numbered
    as their author counts: objects from 1, the lines of a file with its header as line 1. `region` (as `DE`)
    reads phone numbers without a country code. `on_progress` is told how many rows were read.

    All or nothing beyond that: raises ActionRefused, and changes nothing, for a file that cannot be read.
    """
    if region is not None and not phones.is_region(region):
        raise ActionRefused(f"{region!r} is no region: use two letters as in DE or US", field="region")
    if (rows is None) == (file is None):
        raise ValueError("give rows or a file")
    numbered: Iterable[tuple[int, object]]
    numbered = read_contacts(file) if file is not None else enumerate(rows or (), start=1)
    if max_rows is not None:
        numbered = _at_most(max_rows, numbered)
    with tenant_scope(tenant_id):
        run = ContactImport(tenant_id, on_rejected=on_rejected)
        return run.run(numbered, region=region, on_progress=on_progress)


def _at_most(limit: int, rows: Iterable[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    for count, row in enumerate(rows, start=1):
        if count > limit:
            raise TooManyRows(f"more than {limit:,} rows: send them in parts, or use import_contacts")
        yield row


@transaction.atomic
def save_contact(
    *, contact: Contact, accounts: list[Account] | None = None, timezone_given: bool = False
) -> Contact:
    """Store a contact whose fields are checked, and its accounts if given: then these and no others.

    A number brings its time zone, unless one was given with it. Raises ActionRefused for attributes that
    cannot be kept, and for an account that belongs to another contact.
    """
    try:
        contact.attributes = check_attributes(contact.attributes)
    except Unusable as error:
        raise ActionRefused(f"The attributes cannot be kept: {error}.", field="attributes") from None
    before = Contact.objects.select_for_update(no_key=True).filter(pk=contact.pk).first()
    new_number = before is None or before.phone != contact.phone
    if not contact.timezone or (new_number and not timezone_given):
        contact.timezone = phones.time_zone_of(contact.phone) if contact.phone else contact.timezone
    contact.updated_at = now()
    contact.save()
    if accounts is not None:
        _replace_accounts(contact, accounts)
    return contact


def _replace_accounts(contact: Contact, accounts: list[Account]) -> None:
    """Change as few rows as possible: a row that keeps one of its two names stays the same row."""
    kept = list(SocialAccount.objects.filter(contact=contact))
    pairs: list[tuple[SocialAccount, Account]] = []
    for account in accounts:
        row = next((row for row in kept if _same(row, account)), None)
        if row is not None:
            kept.remove(row)
        new = SocialAccount(tenant_id=contact.tenant_id, contact=contact, platform=account.platform)
        pairs.append((row or new, account))
    SocialAccount.objects.filter(pk__in=[row.pk for row in kept]).delete()
    for row, account in pairs:
        if row.pk and (row.user_id, row.username) == (account.user_id, account.username):
            continue
        row.user_id, row.username = account.user_id, account.username
        try:
            with transaction.atomic():
                row.save()
        except IntegrityError as error:
            constraint = getattr(getattr(error.__cause__, "diag", None), "constraint_name", "") or ""
            if constraint in ("social_account_user_id_once", "social_account_username_once"):
                name = account.user_id if "user_id" in constraint else account.username
                raise ActionRefused(
                    f"{account.platform} {name} is another contact's, or comes twice.", field="accounts"
                ) from None
            raise


def _same(row: SocialAccount, account: Account) -> bool:
    return row.platform == account.platform and (
        (account.user_id != "" and row.user_id == account.user_id)
        or (account.username != "" and row.username == account.username)
    )
