"""`create_api_key TENANT`: another API key, as a line of JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from django.core.management.base import CommandParser

from tenants.actions import create_api_key
from tenants.management.base import TurnoutCommand, find_tenant


class Command(TurnoutCommand):
    help = "Make an API key for a tenant; it is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", help="slug or id")
        parser.add_argument(
            "--scopes",
            nargs="+",
            default=["*"],
            metavar="SCOPE",
            help="e.g. contacts:read broadcasts:write; separated by spaces or commas (default: all)",
        )
        parser.add_argument("--name", default="key", help="what the admin lists it as")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = find_tenant(options["tenant"])
        scopes = [scope for text in options["scopes"] for scope in re.split(r"[\s,]+", text) if scope]
        key = create_api_key(tenant=tenant, name=options["name"], scopes=scopes)
        self.stdout.write(
            json.dumps(
                {"tenant": tenant.pk, "slug": tenant.slug, "api_key": key, "scopes": sorted(set(scopes))}
            )
        )
