"""`python -m sandbox`: the stand-in for the vendors, on its own."""

from __future__ import annotations

import argparse
import json
import sys

from sandbox import SandboxConfig, serve


def main(argv: list[str] | None = None) -> int:
    """Serve until ^C. Exit code 1 with one line when it cannot."""
    parser = argparse.ArgumentParser(
        prog="sandbox", description="Stands in for the vendors' APIs on loopback."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9009, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--latency", default="150,50", metavar="MEAN,SD", help="milliseconds")
    parser.add_argument(
        "--rate", type=float, default=80.0, help="messages per number and second, 0: no limit"
    )
    parser.add_argument("--webhook-url", default="", help="where status updates go")
    parser.add_argument("--webhook-secret", default="", help="the app secret that signs them")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="any other setting, e.g. fail_graph=0.05",
    )
    options = parser.parse_args(argv)
    try:
        changes = {
            "latency_ms": [float(part) for part in options.latency.split(",")],
            "rate": options.rate,
            "webhook_url": options.webhook_url,
            "webhook_secret": options.webhook_secret,
        }
        for item in options.set:
            name, _, value = item.partition("=")
            changes[name] = json.loads(value)
        config = SandboxConfig().merge(changes)
    except ValueError as error:
        parser.error(str(error))
    try:
        serve(config, options.port, host=options.host, ready=_say)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]  # Python adds the address again
        sys.stderr.write(f"sandbox: cannot listen on {options.host}:{options.port}: {why}\n")
        return 1
    return 0


def _say(url: str) -> None:
    sys.stdout.write(f"sandbox: {url}/_sandbox/\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
