"""What `run` keeps running: the web server, and one django-q2 cluster per queue that has work to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from django.conf import settings

from config.localpg import PROJECT
from config.supervisor import Child
from engine.watch.heartbeats import cluster_names


def web(host: str, port: int, env: Mapping[str, str] | None = None) -> Child:
    command = [sys.executable, "-m", "granian", "config.asgi:application", "--interface", "asgi"]
    command += ["--host", host, "--port", str(port), "--no-ws", "--loop", "uvloop", "--log-level", "warning"]
    command += ["--workers-kill-timeout", "5"]
    if not settings.DEBUG:
        command += ["--static-path-route", f"/{settings.STATIC_URL.strip('/')}"]
        command += ["--static-path-mount", str(settings.STATIC_ROOT)]
    # 0.0.0.0 is where to listen, and no address to ask
    asked = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return Child("web", command, env or {}, address=f"http://{asked}:{port}/health/live")


def clusters(env: Mapping[str, str] | None = None) -> list[Child]:
    """The default cluster, which runs the minute's watch and the schedules, and one for each queue."""
    names = cluster_names()
    manage = [sys.executable, str(PROJECT / "manage.py"), "qcluster"]
    return [Child(name, manage, {"Q_CLUSTER_NAME": name, **(env or {})}, cluster=name) for name in names]
