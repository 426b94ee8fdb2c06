"""Set-based verbs over campaigns' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from campaigns.segments import compile_segment
from tenants.scope import TenantQuerySet

if TYPE_CHECKING:
    from campaigns.models import Segment


class ContactQuerySet(TenantQuerySet):
    """Contacts of the scope in force."""

    def reachable_by_phone(self) -> ContactQuerySet:
        return self.exclude(phone="")

    def matching(self, rules: object) -> ContactQuerySet:
        """Those whom a segment's rules choose. Raises `RulesRefused`."""
        return self.filter(compile_segment(rules))

    def in_segment(self, segment: Segment) -> ContactQuerySet:
        """Those of the segment as it is now."""
        return self.matching(segment.rules).filter(tenant_id=segment.tenant_id)

    def in_cohort(self, cohort: Any) -> ContactQuerySet:
        return self.filter(cohorts=cohort)
