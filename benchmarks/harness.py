"""What the benchmarks and the reliability tests stand on: a sandbox, a database, messages to send, senders.

Everything runs in processes of its own and on 127.0.0.1 only. Figures that depend on this machine are
printed beside a baseline that ran on it a moment before or after.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parents[1]
FILL_ROWS = 100_000
"""Rows written per transaction: the deferred constraints of each are checked together."""


# -- the machine ------------------------------------------------------------------------------
def go_first() -> bool:
    """Put this process and its children before others, where the machine lets us; say whether it did.

    The sandbox's clock is what a rate is measured by: while it waits for a processor, arrivals heap up
    that came evenly.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except PermissionError:
        return False
    return True


# -- the vendor --------------------------------------------------------------------------------
@dataclass(slots=True)
class Sandbox:
    """A running sandbox. Its word on what arrived is what we are measured by."""

    url: str
    process: subprocess.Popen[str]

    def stats(self) -> dict[str, Any]:
        return self._ask("stats")

    def total(self) -> dict[str, Any]:
        """Return the counts over all numbers."""
        total: dict[str, Any] = self.stats()["total"]
        return total

    def accepted(self) -> list[dict[str, Any]]:
        """List every message that was taken: to, attempt, wamid, template, at."""
        return self._ask("accepted")

    def configure(self, **changes: Any) -> None:
        self._ask("config", changes)

    def reset(self) -> None:
        self._ask("reset", {})

    def _ask(self, what: str, data: Mapping[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"{self.url}/_sandbox/{what}", body, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def sandbox(**settings: Any) -> Iterator[Sandbox]:
    """Start a sandbox in a process of its own; `settings` are those of sandbox/config.py."""
    command = [sys.executable, "-m", "sandbox", "--port", "0"]
    for name, value in settings.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        try:
            assert process.stdout
            yield Sandbox(process.stdout.readline().split()[1].removesuffix("/_sandbox/"), process)
        finally:
            process.terminate()


# -- the database ------------------------------------------------------------------------------
@contextmanager
def scratch_database(name: str) -> Iterator[str]:
    """Make an empty database, let this process's Django and its children use it, drop it at the end."""
    import psycopg

    from config.localpg import LocalPg

    given = os.environ.get("DATABASE_URL")
    server = given or LocalPg().ensure().url()
    url = urlsplit(server)._replace(path=f"/bench_{name}").geturl()
    with psycopg.connect(server, autocommit=True) as admin:
        _drop(admin, f"bench_{name}")
        admin.execute(f'CREATE DATABASE "bench_{name}"')
        os.environ["DATABASE_URL"] = url
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
        import django
        from django.core.management import call_command
        from django.db import connections

        try:
            django.setup()
            call_command("migrate", verbosity=0)
            yield url
        finally:
            os.environ["DATABASE_URL"] = given or ""
            connections.close_all()
            _drop(admin, f"bench_{name}")


def _drop(admin: Any, name: str) -> None:
    """Drop a database, however long the server's own vacuum is still busy in it."""
    from psycopg.errors import InsufficientPrivilege

    deadline = time.monotonic() + 60
    while True:
        try:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        except InsufficientPrivilege:  # a vacuum is not ours to end
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


@dataclass(slots=True, frozen=True)
class Filled:
    """Messages that wait to be sent, spread evenly over senders."""

    messages: int
    lanes: list[int]
    broadcasts: list[int]
    addresses: list[str]


def fill(
    *,
    messages: int,
    senders: int = 1,
    tenants: int | None = None,
    rate: float = 80.0,
    max_in_flight: int | None = None,
    state: str = "queued",
) -> Filled:
    """Write running broadcasts as launching would leave them, with one statement per 100,000 messages.

    Each sender is a tenant's of its own, or `tenants` share them out in turn, each with one token.
    `state` is that of the messages: "read" makes history.
    """
    from django.db import connection, transaction
    from django.utils.timezone import now

    from campaigns.models import Campaign
    from engine.models import Lane
    from messaging.models import Broadcast, BroadcastStep, MessageTemplate, Sender
    from tenants.models import ProviderToken, Tenant
    from tenants.scope import all_tenants

    with transaction.atomic(), all_tenants():
        first = Tenant.objects.count()
        names = [f"bench {first + i}" for i in range(tenants or senders)]
        addresses = [f"1{first + i:09}" for i in range(senders)]
        made_tenants = Tenant.objects.bulk_create(Tenant(name=n, slug=n.replace(" ", "-")) for n in names)
        tokens = [ProviderToken(tenant=tenant, provider="whatsapp", label="bench") for tenant in made_tenants]
        for token in tokens:
            token.secret = f"EAAG-bench-{token.tenant_id}"
        ProviderToken.objects.bulk_create(tokens)
        turns = [i % len(made_tenants) for i in range(senders)]
        owners, tokens = [made_tenants[turn] for turn in turns], [tokens[turn] for turn in turns]
        lanes = Lane.objects.bulk_create(
            Lane(
                tenant_id=token.tenant_id,
                queue="messaging",
                processor="messages",
                name=address,
                token=token,
                rate_per_second=rate,
                max_in_flight=max_in_flight,
            )
            for token, address in zip(tokens, addresses, strict=True)
        )
        made = Sender.objects.bulk_create(
            Sender(
                tenant_id=lane.tenant_id,
                provider_token_id=lane.token_id,
                kind="whatsapp",
                address=lane.name,
                rate_per_second=rate,
                lane=lane,
            )
            for lane in lanes
        )
        templates = MessageTemplate.objects.bulk_create(
            MessageTemplate(
                tenant=tenant,
                name="offer",
                language="en",
                body="Hello {{1}}, your offer is ready.",
                variables=["name"],
            )
            for tenant in made_tenants
        )
        campaigns = Campaign.objects.bulk_create(
            Campaign(tenant=tenant, name="bench", state=Campaign.State.ACTIVE) for tenant in made_tenants
        )
        templates, campaigns = [templates[turn] for turn in turns], [campaigns[turn] for turn in turns]
        broadcasts = Broadcast.objects.bulk_create(
            Broadcast(
                tenant_id=sender.tenant_id,
                campaign=campaign,
                sender=sender,
                name="bench",
                audience={"all": True},
                state=Broadcast.State.RUNNING,
                total=messages // senders,
                launched_at=now(),
            )
            for sender, campaign in zip(made, campaigns, strict=True)
        )
        steps = BroadcastStep.objects.bulk_create(
            BroadcastStep(
                tenant_id=broadcast.tenant_id,
                broadcast=broadcast,
                position=1,
                template=template,
                share=100,
                state=BroadcastStep.State.RUNNING,
                frozen={
                    "name": template.name,
                    "language": template.language,
                    "category": template.category,
                    "components": template.components,
                },
            )
            for broadcast, template in zip(broadcasts, templates, strict=True)
        )
    columns = [[row.pk for row in rows] for rows in (owners, lanes, broadcasts, steps)]
    for start in range(0, messages, FILL_ROWS):
        with transaction.atomic(), all_tenants(), connection.cursor() as cursor:
            stop = min(messages, start + FILL_ROWS) - 1
            cursor.execute(_FILL, [*columns, start, stop, senders, state, senders])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE campaigns_contact, messaging_message, engine_lane, messaging_broadcaststep")
    return Filled(messages, columns[1], columns[2], addresses)


# Phones are unique over all senders, so that the sandbox's count of recipients is one of messages.
_FILL = """
    WITH target AS (
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
            WITH ORDINALITY AS t(tenant_id, lane_id, broadcast_id, step_id, place)
    ), contact AS (
        INSERT INTO campaigns_contact (tenant_id, external_id, phone, email, name, timezone, attributes,
                                       created_at, updated_at)
        SELECT target.tenant_id, 'c' || i, '+1' || lpad((target.tenant_id * 10000000 + i)::text, 12, '0'), '',
               'Name ' || i, 'UTC', '{}', now(), now()
          FROM generate_series(%s::int, %s::int) AS i JOIN target ON target.place = i %% %s + 1
        RETURNING id, external_id, phone, name
    )
    INSERT INTO messaging_message (tenant_id, lane_id, broadcast_id, step_id, contact_id, phone, parameters,
                                   state, due_at, attempts, error_code, error_detail, wamid, vendor_status,
                                   created_at)
    SELECT tenant_id, lane_id, broadcast_id, step_id, contact.id, phone, jsonb_build_array(name), %s,
           now(), 0, '', '', '', '', now()
      FROM contact JOIN target ON target.place = substr(external_id, 2)::int %% %s + 1 ORDER BY contact.id"""


# -- the process that sends ----------------------------------------------------------------------
class SendingFailed(RuntimeError):
    """The sending process ended with an error; its last lines say why."""


@dataclass(slots=True)
class Sending:
    """`manage.py process messaging` in a process of its own, and what it used."""

    process: subprocess.Popen[str]
    started: float
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, resident MB), as `watch` saw it."""
    peak: float = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid

    def watch(self, *, seconds: float, every: float = 0.5) -> None:
        """Note its memory until it ends, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._note_memory()
            time.sleep(every)

    def ended(self, *, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until it ends by itself, and return its report."""
        out, err = self.process.communicate(timeout=seconds)
        if self.process.returncode:
            raise SendingFailed("\n".join(err.splitlines()[-20:]))
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.kill()
        self.process.communicate()

    def _note_memory(self) -> None:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return
        values = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in values:
            self.memory.append((time.monotonic() - self.started, int(values["VmRSS"].split()[0]) / 1024))
            self.peak = max(self.peak, int(values["VmHWM"].split()[0]) / 1024)


@contextmanager
def sending(vendor: Sandbox, *arguments: str, **environment: str) -> Iterator[Sending]:
    """Run `manage.py process messaging` against `vendor`; killed at the end if it still runs."""
    command = [sys.executable, "manage.py", "process", "messaging", "--json", *arguments]
    with running(command, vendor, **environment) as process:
        yield process


@contextmanager
def running(command: list[str], vendor: Sandbox, **environment: str) -> Iterator[Sending]:
    """Run any command that sends to `vendor`."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, "WHATSAPP_URL": vendor.url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Sending(process, started)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


# -- the line ------------------------------------------------------------------------------------
def say(identity: str, *, passed: bool, **facts: Any) -> int:
    """Print a benchmark's one JSON line; returns the exit code."""
    print(json.dumps({"id": identity, **facts, "pass": passed}), flush=True)
    return 0 if passed else 1
