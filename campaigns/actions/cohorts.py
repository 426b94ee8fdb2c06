"""Cohorts: a choice of contacts, made once and kept."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import EmptyResultSet
from django.db import connection, transaction

from campaigns.models import Cohort, Contact, Segment
from tenants.errors import ActionRefused


@transaction.atomic
def create_cohort(
    *,
    tenant_id: int,
    name: str,
    segment: Segment | None = None,
    contacts: Collection[str] | None = None,
) -> tuple[Cohort, int]:
    """Keep whom a segment chooses now, or the contacts with these external ids; returns how many with it.

    With neither, the whole tenant. Raises ActionRefused for external ids that nobody has.
    """
    chosen = Contact.objects.filter(tenant_id=tenant_id)
    if segment is not None:
        chosen = Contact.objects.in_segment(segment)
    if contacts is not None:
        chosen = chosen.filter(external_id__in=list(contacts))
    cohort = Cohort.objects.create(tenant_id=tenant_id, name=name)
    count = _fill(cohort, chosen)
    if segment is None and contacts is not None and count < len(set(contacts)):
        known = set(chosen.values_list("external_id", flat=True))
        absent = sorted(set(contacts) - known)
        raise ActionRefused(
            f"No contact has the external_id {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}.",
            field="contacts",
        )
    return cohort, count


def _fill(cohort: Cohort, chosen: object) -> int:
    """Add contacts in one statement, whatever their number."""
    try:
        sql, params = chosen.order_by().values("pk").query.sql_with_params()  # type: ignore[attr-defined]
    except EmptyResultSet:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO campaigns_cohortmember (tenant_id, cohort_id, contact_id)"
            f" SELECT %s, %s, chosen.id FROM ({sql}) AS chosen (id)",
            [cohort.tenant_id, cohort.pk, *params],
        )
        return int(cursor.rowcount)
