"""`create_token PROVIDER`: a provider token, its secret read from standard input, as a line of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandParser

from tenants.actions import create_token
from tenants.errors import ActionRefused
from tenants.management.base import TurnoutCommand, find_tenant
from tenants.token_settings import SETTINGS


class Command(TurnoutCommand):
    help = (
        "Keep what a vendor gave; the secret is read from standard input. Without --tenant the token is the "
        "platform's own, usable by all standard tenants or by those named. Prints the token's id."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", choices=sorted(SETTINGS))
        parser.add_argument("--tenant", metavar="T", help="slug or id (default: the platform's own)")
        parser.add_argument("--label", default="main", metavar="L", help="what the admin lists it as")
        parser.add_argument("--config", default="{}", metavar="JSON", help='e.g. {"waba_id": "123"}')
        parser.add_argument("--allowance", type=int, metavar="N", help="calls an hour (default: no limit)")
        parser.add_argument("--usable-by", nargs="+", default=[], metavar="T", help="slugs or ids")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            config = json.loads(options["config"])
        except ValueError as error:
            raise ActionRefused(f"--config is no JSON: {error}", field="config") from None
        token = create_token(
            provider=options["provider"],
            label=options["label"],
            secret=sys.stdin.read().strip(),
            tenant=find_tenant(options["tenant"]) if options["tenant"] else None,
            config=config,
            hourly_allowance=options["allowance"],
            usable_by=[find_tenant(text) for text in options["usable_by"]],
        )
        self.stdout.write(json.dumps({"token": token.pk}))
