"""The vendors' stand-in: answers like them, counts exactly, fails on request. Imports nothing of ours."""

from sandbox.config import SandboxConfig
from sandbox.server import Running, running, serve

__all__ = ["Running", "SandboxConfig", "running", "serve"]
