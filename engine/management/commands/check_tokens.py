"""`check_tokens`: ask each vendor whether each token still works."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import F

from engine.actions.tokens import WORKS, check_token
from tenants.errors import ActionRefused
from tenants.management.base import TurnoutCommand, find_tenant
from tenants.models import ProviderToken


class Command(TurnoutCommand):
    help = (
        "Ask each vendor whether each token still works, and prove the accounts that it claims; a dead one "
        "pauses its lanes and fails the command."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", nargs="?", help="slug or id (default: every tenant's tokens)")

    def handle(self, *args: Any, **options: Any) -> None:
        tokens = (
            ProviderToken.objects.filter(retired_at=None)
            .select_related("tenant")
            .order_by(F("tenant__slug").asc(nulls_first=True), "pk")
        )
        if options["tenant"]:
            tokens = tokens.filter(tenant=find_tenant(options["tenant"]))
        listed = list(tokens)
        bad = 0
        for token in listed:
            owner = token.tenant.slug if token.tenant else "platform"
            try:
                standing, detail = check_token(token_id=token.pk)
            except ActionRefused as error:
                bad += 1
                self.stdout.write(f"{owner}  {error}")
                continue
            bad += standing not in WORKS
            self.stdout.write(f"{owner}  {token}  {standing.value}  {detail}".rstrip())
        if bad:
            raise CommandError(f"{bad} of {len(listed)} provider tokens do not work")
        self.stdout.write(f"{len(listed)} of {len(listed)} provider tokens work")
