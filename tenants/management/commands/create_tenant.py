"""`create_tenant NAME`: a tenant and its first API key, as a line of JSON."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser

from tenants.actions import create_tenant
from tenants.management.base import TurnoutCommand
from tenants.models import Tenant


class Command(TurnoutCommand):
    help = "Make a tenant; prints its id, slug and first API key, which is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--tier", choices=Tenant.Tier.values, default=Tenant.Tier.STANDARD)
        parser.add_argument("--timezone", default="UTC", metavar="TZ", help="e.g. Europe/Vienna")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant, key = create_tenant(name=options["name"], tier=options["tier"], timezone=options["timezone"])
        self.stdout.write(json.dumps({"tenant": tenant.pk, "slug": tenant.slug, "api_key": key}))
