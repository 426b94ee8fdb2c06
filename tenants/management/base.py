"""The base of Turnout's commands: all tenants in scope, a user's mistake in one line, exit code 1."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, OperationalError

from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import all_tenants


class TurnoutCommand(BaseCommand):
    """Run `handle` under all_tenants(); turn what a person can mend into one line on standard error.

    `call_command` gets the same as CommandError. argparse answers wrong usage with exit code 2.
    """

    _called_from_command_line: bool  # set by Django

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            with all_tenants():
                return super().execute(*args, **options)
        except (ActionRefused, CommandError) as error:
            reason = str(error)
        except DatabaseError as error:
            if (told := _mendable(error)) is None:
                raise
            reason = told
        if self._called_from_command_line:
            self.stderr.write(f"error: {reason}")
            raise SystemExit(1)
        raise CommandError(reason)


def _mendable(error: DatabaseError) -> str | None:
    """Say what to do about a database that is away or empty; None for errors that are our own."""
    state = getattr(error.__cause__, "sqlstate", None)
    first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
    # 42P01: no such table. 22023: the role of all_tenants() does not exist.
    if state == "42P01" or (state == "22023" and "role" in first_line):
        return "the database has not been set up: run `python manage.py migrate` first"
    if isinstance(error, OperationalError):
        return f"the database does not answer: {first_line}"
    return None


def find_tenant(text: str) -> Tenant:
    """Find a tenant by its slug or its id."""
    tenant = Tenant.objects.filter(slug=text).first()
    if tenant is None and text.isdecimal():
        tenant = Tenant.objects.filter(pk=int(text)).first()
    if tenant is None:
        known = list(Tenant.objects.order_by("slug").values_list("slug", flat=True)[:11])
        listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        raise ActionRefused(
            f"there is no tenant {text!r}; there is {listed or 'none yet: create_tenant NAME'}"
        )
    return tenant
