"""Real ZooKeeper servers on loopback, for trying, rehearsing and testing: one server or an ensemble."""

from __future__ import annotations

from zkmig.dev.ensemble import Ensemble
from zkmig.dev.install import Installation, find_installation
from zkmig.dev.server import Server

__all__ = ["Ensemble", "Installation", "Server", "find_installation"]
