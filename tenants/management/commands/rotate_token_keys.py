"""`rotate_token_keys`: every secret sealed again with the first of TOKEN_KEYS."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from tenants.actions import rotate_token_keys
from tenants.management.base import TurnoutCommand


class Command(TurnoutCommand):
    help = "Seal every secret again with the first key of TOKEN_KEYS; the old keys can then be removed."

    def handle(self, *args: Any, **options: Any) -> None:
        rotation = rotate_token_keys()
        self.stdout.write(f"{rotation.rotated} provider tokens are sealed with the first key")
        if rotation.unreadable:
            raise CommandError(
                f"no key of TOKEN_KEYS opens {len(rotation.unreadable)}, put back the key that sealed them: "
                + "; ".join(rotation.unreadable)
            )
