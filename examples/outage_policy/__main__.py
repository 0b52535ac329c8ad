"""The outage of 2016 as a policy: what must never be committed, tried on a real server. See README.md.

    python -m examples.outage_policy

Exit codes: 0 nothing unsound was committed, and the sound site was; 1 something else came out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
from kazoo.client import KazooClient

import zkmig
from zkmig.dev import Server

POLICY = Path(__file__).parent / "policy.toml"
SCOPE = "site"
HOSTS = 40
LIMITS = zkmig.Limits(batch_ops_max=5)  # small batches, so that something can happen in between
Site = dict[str, bytes]


def site(hosts: int = HOSTS, web: int = 3, rack: str = "r1") -> Site:
    """Data by path. hosts: how many there are; web: members of the set `web`; rack: what each host says."""
    members = {"web": web, "cache": 2, "spare": 1}
    found = {"/site": b"", "/site/hosts": b"", "/site/sets": b""}
    found |= {f"/site/hosts/h{number:02}": rack.encode() for number in range(hosts)}
    for name, count in members.items():
        found[f"/site/sets/{name}"] = b""
        for number in range(count):
            found[f"/site/sets/{name}/m{number}"] = json.dumps({"host": f"h{number:02}"}).encode()
    return found


def grow(client: KazooClient, tree: Site, root: str = "") -> None:
    """Put it there, below `root`."""
    for path, data in tree.items():
        client.create(root + path, data, makepath=True)


class Trial:
    """One server with a site on it, and who tries what."""

    def __init__(self, server: Server, client: KazooClient) -> None:
        self._hosts = server.hosts
        self._client = client
        self._wanted = 0
        self.policy = zkmig.load_policy(str(POLICY))
        grow(client, site())
        zkmig.init(f"zk://{server.hosts}/site", scope=SCOPE)

    def plan(self, wanted: Site) -> zkmig.Plan:
        """From the site as it is to the one that is wanted, which somebody has drafted elsewhere on the server."""
        self._wanted += 1
        draft = f"/draft-{self._wanted}"
        grow(self._client, wanted, draft)
        source, target = (f"zk://{self._hosts}{root}/site" for root in (draft, ""))
        return zkmig.make_plan(source, target, policy=self.policy, limits=LIMITS)

    def committed(self) -> int:
        """The committed epoch."""
        return zkmig.status(f"zk://{self._hosts}", scope=SCOPE).record.epoch

    def rack_in_view(self) -> str:
        """What a reader is shown of a host."""
        with zkmig.Reader(self._client, scope=SCOPE) as reader:
            return (reader.view()["/site/hosts/h00"].data or b"").decode()


def refused(say: Callable[[str], None], what: str, act: Callable[[], object]) -> zkmig.ZkmigError | None:
    """What zkmig says to it; None if it lets it pass."""
    say(f"\n{what}")
    try:
        act()
    except zkmig.ZkmigError as error:
        say(f"  zkmig, code {error.exit_code}: {error}")
        return error
    say("  zkmig lets it pass")
    return None


def run(say: Callable[[str], None]) -> dict[str, object]:
    """Try it all; what came of each."""
    with Server() as server:
        client = KazooClient(server.hosts)
        client.start()
        try:
            return _tried(Trial(server, client), server.hosts, client, say)
        finally:
            client.stop()
            client.close()


def _tried(trial: Trial, hosts: str, client: KazooClient, say: Callable[[str], None]) -> dict[str, object]:
    emptied = refused(say, "A plan empties the server set web.", lambda: trial.plan(site(web=0)))
    removed = refused(say, "A plan removes five of forty hosts.", lambda: trial.plan(site(hosts=HOSTS - 5)))
    plan = trial.plan(site(hosts=HOSTS - 2, rack="r2"))
    spare, seen = "/site/sets/spare/m0", list[str]()

    def tamper(progress: zkmig.Progress) -> None:
        if progress.phase == "write" and progress.done >= 2 and not seen:
            client.delete(spare)
            seen.append(trial.rack_in_view())

    def apply() -> None:
        zkmig.apply(plan, f"zk://{hosts}", scope=SCOPE, epoch=1, single_shot="never", report=tamper)

    what = "A sound plan is carried out; between two batches somebody else empties the server set spare."
    stopped = refused(say, what, apply)
    state, still = zkmig.status(f"zk://{hosts}", scope=SCOPE).record.state.value, trial.committed()
    seen.append(trial.rack_in_view())
    say(f"  the scope is {state}, its committed epoch {still}; a reader sees rack {', then '.join(seen)}")
    client.create(spare, b'{"host": "h00"}')
    say("\nThe set is filled again, and the migration resumed.")
    zkmig.resume(plan, f"zk://{hosts}", scope=SCOPE)
    say(f"  the committed epoch is {trial.committed()}; a reader sees rack {trial.rack_in_view()}")
    return {
        "emptied": emptied.exit_code if emptied else 0,
        "removed": removed.exit_code if removed else 0,
        "stopped": stopped.exit_code if stopped else 0,
        "state": state,
        "committed_then": still,
        "seen_then": seen,
        "committed": trial.committed(),
        "seen": trial.rack_in_view(),
    }


WANTED = {
    "emptied": 3,
    "removed": 3,
    "stopped": 4,
    "state": "OPEN",
    "committed_then": 0,
    "seen_then": ["r1", "r1"],
    "committed": 1,
    "seen": "r2",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def main(as_json: bool) -> None:
    """Try it."""
    outcome = run(lambda sentence: click.echo(sentence, err=as_json))
    if as_json:
        click.echo(json.dumps(outcome))
    sys.exit(0 if outcome == WANTED else 1)


if __name__ == "__main__":
    main()
