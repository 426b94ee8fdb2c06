"""The commands as a script sees them: JSON on standard output, one line on standard error, an exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import DatabaseError, ProgrammingError, connection

from tenants.keys import digest
from tenants.management.base import TurnoutCommand
from tenants.models import ApiKey, ProviderToken, Tenant
from tenants.scope import ALL, NoTenantScope, all_tenants, current_scope
from tests.factories import ProviderTokenFactory

ROOT = Path(__file__).resolve().parents[2]


def called(*args: str) -> str:
    out = io.StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


def test_create_tenant_prints_what_a_script_needs(db: None) -> None:
    line = json.loads(called("create_tenant", "Acme", "--tier", "premium", "--timezone", "Europe/Vienna"))
    assert line.keys() == {"tenant", "slug", "api_key"}
    tenant = Tenant.objects.get(pk=line["tenant"])
    assert (tenant.slug, tenant.tier) == (line["slug"], "premium")
    with all_tenants():
        assert ApiKey.objects.get(digest=digest(line["api_key"])).tenant_id == tenant.pk


@pytest.mark.parametrize("scopes", [["a:read,b:write"], ["a:read", "b:write"], ["a:read b:write"]])
def test_create_api_key_takes_a_slug_or_an_id_and_scopes_however_they_are_separated(
    acme: Tenant, scopes: list[str]
) -> None:
    for tenant in (acme.slug, str(acme.pk)):
        line = json.loads(called("create_api_key", tenant, "--scopes", *scopes))
        with all_tenants():
            key = ApiKey.objects.get(digest=digest(line["api_key"]))
        assert (key.tenant_id, key.scopes) == (acme.pk, ["a:read", "b:write"])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["create_tenant", ""], "needs a name"),
        (["create_tenant", "Acme", "--timezone", "Mars"], "time zone 'Mars'"),
        (["create_api_key", "nobody"], "no tenant 'nobody'; there is acme, bolt"),
        (["create_api_key", "acme", "--scopes", "everything"], "everything is no scope"),
        (["check_tokens", "nobody"], "no tenant 'nobody'"),
    ],
)
def test_a_mistake_is_told_in_one_line(acme: Tenant, args: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason) as refused:
        called(*args)
    assert "\n" not in str(refused.value)


def test_rotation_names_what_it_could_not_open(acme: Tenant, settings: Any) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.TOKEN_KEYS = [old]
    with all_tenants():
        token: Any = ProviderTokenFactory(tenant=acme)
    settings.TOKEN_KEYS = [new]
    with pytest.raises(CommandError, match=token.label):
        called("rotate_token_keys")
    settings.TOKEN_KEYS = [new, old]
    assert "1 provider tokens" in called("rotate_token_keys")


def with_secret(monkeypatch: pytest.MonkeyPatch, *args: str, secret: str = "EAAsecret\n") -> str:  # noqa: S107 - of tests
    monkeypatch.setattr("sys.stdin", io.StringIO(secret))
    return called("create_token", *args)


def test_create_token_makes_a_tenants_token_or_the_platforms(
    acme: Tenant, bolt: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = '{"waba_id": "77", "app_secret": "s"}'
    own = ["whatsapp", "--tenant", "acme", "--label", "L", "--config", config, "--allowance", "200"]
    shared = ["apify", "--usable-by", "acme", str(bolt.pk)]
    told = [json.loads(with_secret(monkeypatch, *args)) for args in (own, shared, ["meta"])]
    assert all(line.keys() == {"token"} for line in told)
    with all_tenants():
        first, second, third = (ProviderToken.objects.get(pk=line["token"]) for line in told)
        assert (first.tenant, first.label, first.secret) == (acme, "L", "EAAsecret")
        assert (first.config, first.setting("app_secret")) == ({"waba_id": "77"}, "s")
        assert first.allowances.get().limit == 200
        assert (second.tenant, set(second.usable_by.all())) == (None, {acme, bolt})
        assert (third.tenant, set(third.usable_by.all())) == (None, set())


@pytest.mark.parametrize(
    ("args", "secret", "reason"),
    [
        (["meta"], "", "needs its secret"),
        (["meta", "--tenant", "nobody"], "s", "no tenant 'nobody'"),
        (["meta", "--usable-by", "nobody"], "s", "no tenant 'nobody'"),
        (["meta", "--tenant", "acme", "--usable-by", "bolt"], "s", "serves that tenant alone"),
        (["meta", "--config", "{"], "s", "is no JSON"),
        (["meta", "--config", '{"colour": "red"}'], "s", "no setting 'colour'"),
        (["meta", "--config", "[1]"], "s", "is an object"),
        (["meta", "--allowance=-1"], "s", "number of calls"),
        (["meta", "--label", ""], "s", "needs a label"),
        (["apify"], "s", "has a token 'main' for apify already"),
    ],
)
def test_a_wrong_token_is_told_in_one_line(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, args: list[str], secret: str, reason: str
) -> None:
    with_secret(monkeypatch, "apify")
    with pytest.raises(CommandError, match=reason) as refused:
        with_secret(monkeypatch, *args, secret=secret)
    assert "\n" not in str(refused.value)
    with all_tenants():
        assert ProviderToken.objects.count() == 1


def test_the_platforms_tokens_are_rotated_and_named_too(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_secret(monkeypatch, "apify")
    settings.TOKEN_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(CommandError, match="the platform's own"):
        called("rotate_token_keys")


class Probe(TurnoutCommand):
    raises: Exception | None = None
    scope: object = None

    def handle(self, *args: Any, **options: Any) -> None:
        self.scope = current_scope()
        if self.raises:
            raise self.raises


def test_commands_work_for_all_tenants_and_leave_no_scope(db: None) -> None:
    probe = Probe()
    call_command(probe)
    assert probe.scope == ALL
    with pytest.raises(NoTenantScope):
        current_scope()


def test_an_empty_database_is_told_what_to_do_and_a_fault_of_ours_is_not_hidden(db: None) -> None:
    class Empty(TurnoutCommand):
        def handle(self, *args: Any, **options: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(options["sql"])

        def add_arguments(self, parser: Any) -> None:
            parser.add_argument("sql")

    with pytest.raises(CommandError, match=r"manage\.py migrate"):
        call_command(Empty(), "SELECT * FROM no_such_table")
    with pytest.raises(ProgrammingError):
        call_command(Empty(), "SELEC 1")
    probe = Probe()
    probe.raises = DatabaseError("of ours")
    with pytest.raises(DatabaseError, match="of ours"):
        call_command(probe)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, on the tests' own database."""
    database = connection.settings_dict
    url = f"postgres://{database['USER']}@/{database['HOST']}/{database['NAME']}"
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.django_db(transaction=True)
def test_exit_codes_are_0_done_1_refused_2_wrong_usage() -> None:
    done = run("create_tenant", "Acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["slug"] == "acme"

    refused = run("create_api_key", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: there is no tenant 'nobody'; there is acme\n"

    for wrong in (["create_tenant"], ["create_tenant", "A", "--tier", "gold"], ["rotate_token_keys", "now"]):
        usage = run(*wrong)
        assert usage.returncode == 2, wrong
        assert "usage:" in usage.stderr
        assert "Traceback" not in usage.stderr
    assert Tenant.objects.count() == 1
