"""The service registry that the demo migrates: whole images of it as mappings from path to data.

    /registry/hosts/<name>                            {"id": "i-00c3", "address": ..., "rack": ...}
    /registry/services/<service>                      {"port": ...}
    /registry/services/<service>/instances/<name>     {"id": ..., "address": ..., "weight": ...}
    /registry/services/<service>/pool                 {"hosts": ["<name>", ...]}

Invariant: every image lists every running server in exactly one pool, by a name that /registry/hosts resolves.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

ROOT = "/registry"
HOSTS = f"{ROOT}/hosts"
SERVICES = f"{ROOT}/services"
POOL_SUFFIX = "/pool"

# From one image to the next. The site of 2016 moved to new names and new pools in one night.
SHARE_MOVED = 0.4
SHARE_RENAMED = 0.3
SHARE_REWEIGHTED = 0.6

SERVICE_NAMES = (
    *("account", "ads", "api", "audio", "cache", "chat", "comments", "config", "feed", "gateway", "images", "jobs"),
    *("listing", "mail", "media", "metrics", "modqueue", "payments", "places", "profile", "push", "queue", "ranking"),
    *("render", "search", "session", "spam", "static", "stream", "thumbnails", "uploads", "vote", "web", "wiki"),
)


def servers_running(count: int) -> tuple[str, ...]:
    """Ids of the servers that run, as the cloud's own interface lists them: the same in every image."""
    return tuple(f"i-{number:04x}" for number in range(count))


def image(step: int, servers: int) -> dict[str, bytes]:
    """The whole registry after `step` rounds of moving, renaming and re-weighting its servers. Pure."""
    homes = [number % len(SERVICE_NAMES) for number in range(servers)]
    names = [f"host-{number:04}" for number in range(servers)]
    weights = [100] * servers
    for round_number in range(1, step + 1):
        dice = random.Random(round_number)
        for number in range(servers):
            if dice.random() < SHARE_MOVED:
                homes[number] = dice.randrange(len(SERVICE_NAMES))
            if dice.random() < SHARE_RENAMED:
                names[number] = f"rack{dice.randrange(40):02}-{number:04}"
            if dice.random() < SHARE_REWEIGHTED:
                weights[number] = dice.randrange(50, 150)
    return dict(_nodes(homes, names, weights))


def _nodes(homes: list[int], names: list[str], weights: list[int]) -> Iterator[tuple[str, bytes]]:
    """Parents before children."""
    yield ROOT, _json({"format": 1})
    yield HOSTS, b""
    addresses = [f"10.{number >> 8}.{number & 255}.7" for number in range(len(homes))]
    ids = servers_running(len(homes))
    for number, name in enumerate(names):
        yield f"{HOSTS}/{name}", _json({"id": ids[number], "address": addresses[number], "rack": number % 40})
    yield SERVICES, b""
    for home, service in enumerate(SERVICE_NAMES):
        members = [number for number in range(len(homes)) if homes[number] == home]
        top = f"{SERVICES}/{service}"
        yield top, _json({"port": 8000 + home})
        yield f"{top}/instances", b""
        for number in members:
            instance = {"id": ids[number], "address": addresses[number], "weight": weights[number]}
            yield f"{top}/instances/{names[number]}", _json(instance)
        yield f"{top}{POOL_SUFFIX}", _json({"hosts": [names[number] for number in members]})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
