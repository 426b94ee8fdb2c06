"""Run `python -m config.localpg start|stop|status|url|psql`."""

import argparse
import subprocess
import sys

from config.localpg import DatabaseUnavailable, LocalPg


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m config.localpg", description="The embedded database.")
    parser.add_argument(
        "verb", choices=("start", "stop", "status", "url", "psql"), nargs="?", default="status"
    )
    verb = parser.parse_args(argv).verb
    server = LocalPg()
    try:
        if verb == "start":
            server.ensure(hold=False)
        elif verb == "stop":
            server.stop()
        elif verb == "url":
            print(server.url())
            return 0
        elif verb == "psql":
            server.ensure()
            return subprocess.call([str(server.programs / "psql"), server.conninfo()])
    except DatabaseUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("running" if server.running() else "stopped", server.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
