"""`zkmig check` and --policy: what is judged, what is not and why, and the exit codes that scripts rely on.

Method: the real program on a real server, a policy file in its folder; kazoo makes the trees and tampers with them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

import zkmig
from tests.program import Program, Ran, location
from zkmig.dev import Server
from zkmig.policy.rules import Rules

POLICY = """
format = 1

[[references]]
name = "a service's active pool"
from = "ROOT/services/{svc}/active"
to = "ROOT/pools/{value}"

[[guardrails]]
name = "hosts"
pattern = "ROOT/hosts/*"
max_deletions = "10%"

[[guardrails]]
name = "server sets"
pattern = "ROOT/sets/*"
never_empty = true

[[guardrails]]
name = "small"
pattern = "ROOT/**"
max_size = "1 KiB"
"""


class Place:
    """A root on a server with hosts, sets, pools and services, and a policy about them in the program's folder."""

    def __init__(self, zk: Server, root: str, eyes: KazooClient, program: Program) -> None:
        self.root, self.eyes, self.program = root, eyes, program
        self.location = location(zk.hosts, root)
        for number in range(10):
            self.put(f"/hosts/h{number}", b"{}")
            self.put(f"/sets/web/h{number}")
        self.put("/pools/blue", b'["h1"]')
        self.put("/pools/green", b'["h2"]')
        self.put("/services/web/active", b"blue")
        self.policy(POLICY)

    def put(self, path: str, data: bytes = b"") -> None:
        if self.eyes.exists(self.root + path):
            self.eyes.set(self.root + path, data)
        else:
            self.eyes.create(self.root + path, data, makepath=True)

    def policy(self, text: str, name: str = "policy.toml") -> str:
        (self.program.folder / name).write_text(text.replace("ROOT", self.root))
        return name

    def check(self, *arguments: object, policy: str | None = "policy.toml") -> Ran:
        return self.program("check", *arguments, *(("--policy", policy) if policy else ()))

    def plan(self, change: Callable[[], object], *options: object) -> Ran:
        """Plan from the tree as it is once changed to the tree as it was."""
        self.program("snapshot", self.location, "-o", "was.zks", "--force").succeeded()
        change()
        self.program("snapshot", self.location, "-o", "wanted.zks", "--force").succeeded()
        for path in reversed(self.below()):
            self.eyes.delete(path)
        snapshot = zkmig.read(str(self.program.folder / "was.zks"))
        for path, znode in snapshot.items():
            self.eyes.create(path, znode.data)
        return self.program(
            "plan", "--from", "wanted.zks", "--to", self.location, "-o", "p.zkplan", "--force", *options
        )

    def below(self) -> list[str]:
        found = [self.root]
        for path in found:
            found += [f"{path}/{name}" for name in self.eyes.get_children(path)]
        return found


@pytest.fixture
def place(zk: Server, tree_root: str, eyes: KazooClient, program: Program) -> Place:
    return Place(zk, tree_root, eyes, program)


def test_a_sound_tree(place: Place) -> None:
    """What takes a plan is named, not passed over."""
    ran = place.check(place.location).succeeded()
    assert ran.stdout == "sound: 2 rules judged, 2 not judged\n"
    assert "not judged: hosts: it speaks of before and after: it takes a plan" in ran.stderr
    document = place.check(place.location, "--json").succeeded().document
    assert (document["sound"], document["violations"]) == (True, [])
    assert document["judged"] == ["a service's active pool", "small"]
    assert [each["rule"] for each in document["not_judged"]] == ["hosts", "server sets"]
    assert document["counts"] == {"judged": 2, "not_judged": 2, "violations": 0}


def test_a_tree_that_is_not_sound(place: Place) -> None:
    """One line for each, a name that would reverse the terminal's text escaped, and never a byte of data."""
    place.put("/services/web/active", b"secret-pool")
    place.put("/odd\u202ename", b"s" * 1025)
    ran = place.check(place.location)
    assert ran.code == 1
    first, second, last = ran.stdout.splitlines()
    assert first.startswith(f"a service's active pool: {place.root}/services/web/active (11 bytes, sha256 ")
    assert first.endswith(f"): it names a node of {place.root}/pools/{{value}} that is not there")
    assert second.startswith(f"small: {place.root}/odd\\u202ename (1025 bytes, sha256 ")
    assert last == "violated: 2 violations of 2 rules; 2 rules judged, 2 not judged"
    document = place.check(place.location, "--json").document
    assert [(each["rule"], each["path"]) for each in document["violations"]] == [
        ("a service's active pool", f"{place.root}/services/web/active"), ("small", f"{place.root}/odd\u202ename"),
    ]  # fmt: skip
    assert document["violations"][0]["is_old"] is False
    assert "secret" not in ran.stdout + ran.stderr + str(document)
    place.program("snapshot", place.location, "-o", "tree.zks").succeeded()
    assert place.check("tree.zks").stdout == ran.stdout
    policy = place.program.folder / "policy.toml"
    verdicts = [zkmig.check(where, policy=policy) for where in (place.location, str(place.program.folder / "tree.zks"))]
    assert verdicts[0] == verdicts[1]
    without = place.check(place.location, "--exclude", f"{place.root}/odd\u202ename")
    assert len(without.stdout.splitlines()) == 2
    assert "not judged: small: what lies at and below" in without.stderr


def test_bad_input_is_one_line_and_exit_code_2(place: Place) -> None:
    place.check(place.location, policy=None).failed(2, "no policy", "--policy")
    place.check(place.location, policy="none.toml").failed(2, "none.toml", "cannot be read")
    place.check(place.location, policy=place.policy("format = 1", "empty.toml")).failed(2, "no rules")
    place.check("none.zks").failed(2, "no such file")
    place.check(place.location + "/none").failed(2, "there is no such znode")
    place.check(place.location + "/pools").failed(2, "outside of what is judged")
    place.check(place.location, "--at", place.location).failed(2, "only a plan has a target")
    place.check(place.location, "--exclude", "/elsewhere").failed(2, "/elsewhere")
    place.check("policy.toml").failed(2, "policy.toml")
    place.check("zk://127.0.0.1:1/app", policy="policy.toml").failed(6, "127.0.0.1")
    locked = make_digest_acl("alice", "wonder", all=True)
    place.eyes.create(f"{place.root}/locked", b"", acl=[locked])
    place.check(place.location).failed(6, "locked")


def test_a_policy_from_the_environment_and_its_excludes(place: Place) -> None:
    """A policy may exclude what lies in the other tree of a migration; what lies in this one is left out."""
    place.put("/big", b"x" * 2000)
    text = f'{POLICY}\n[[exclude]]\npath = "ROOT/big"\n[[exclude]]\npath = "/of/the/source"\n'
    place.policy(text)
    for where in (place.location, "tree.zks"):
        if where == "tree.zks":
            place.program("snapshot", place.location, "-o", "tree.zks").succeeded()
        ran = place.program("check", where, env={"ZKMIG_POLICY": "policy.toml"}).succeeded()
        assert f"not judged: small: what lies at and below {place.root}/big, which is left out" in ran.stderr
    assert (
        place.check(place.location, policy=place.policy(f'{POLICY}\n[[exclude]]\npath = "ROOT"', "all.toml")).code == 2
    )


def test_the_outage_is_refused_at_planning(place: Place) -> None:
    """Goal: a plan that empties a server set, or takes over 10 % of the hosts, is never made. Method: both, and one
    host less, which may go."""
    root = place.root

    def remove(*paths: str) -> Callable[[], object]:
        return lambda: [place.eyes.delete(root + path) for path in paths]

    policy = ("--policy", "policy.toml")
    made = place.plan(remove("/hosts/h1"), *policy).succeeded()
    assert "rules     sound: 4 rules judged\n" in made.stdout
    (place.program.folder / "p.zkplan").unlink()
    ran = place.plan(remove("/hosts/h1", "/hosts/h2"), *policy)
    assert ran.code == 3
    assert f"hosts: {root}/hosts/*: 2 of 10 are gone ({root}/hosts/h1, {root}/hosts/h2), at most 1 (10 %)" in ran.stderr
    ran = place.plan(remove(*(f"/sets/web/h{number}" for number in range(10))), *policy)
    assert ran.code == 3
    assert f"server sets: {root}/sets/web: it had children, and has none" in ran.stderr
    assert "10 of its children are deleted by this plan" in ran.stderr
    assert "p.zkplan" not in place.program.files
    # What a plan without a policy would do, a policy can be asked about afterwards.
    place.plan(remove("/hosts/h1", "/hosts/h2")).succeeded()
    ran = place.check("p.zkplan")
    assert ran.code == 1
    assert "hosts: " in ran.stdout
    assert ran.stdout.endswith("violated: 1 violation of 1 rule; 4 rules judged\n")
    place.check("p.zkplan", policy=None).failed(2, "no rules")


def test_a_plan_is_held_against_what_was_there_when_it_was_made(place: Place) -> None:
    """Goal: what others do in between counts, as apply will find. Method: a plan that takes one host of ten, which may
    go; then somebody takes another."""
    place.plan(lambda: place.eyes.delete(f"{place.root}/hosts/h1"), "--policy", "policy.toml").succeeded()
    assert place.check("p.zkplan", policy=None).succeeded().stdout == "sound: 4 rules judged\n"
    place.eyes.delete(f"{place.root}/hosts/h2")
    ran = place.check("p.zkplan", policy=None)
    assert ran.code == 1
    gone = f"2 of 10 are gone ({place.root}/hosts/h2, {place.root}/hosts/h1), at most 1 (10 %) may go"
    assert f"{gone}; 1 of them was deleted by others: {place.root}/hosts/h2\n" in ran.stdout
    # Another policy knows only what is there now: one of nine, which is more than 10 %.
    assert "1 of 9 is gone" in place.check("p.zkplan").stdout
    half = place.policy(POLICY.replace("10%", "50%"), "half.toml")
    place.check("p.zkplan", policy=half).succeeded()
    place.eyes.set(f"{place.root}/services/web/active", b"violet")
    ran = place.check("p.zkplan", policy=None)
    assert "others have changed the tree since the plan was made" in ran.stdout
    # What the environment says is for commands that have nothing of their own.
    assert place.program("check", "p.zkplan", env={"ZKMIG_POLICY": half}).stdout == ran.stdout
    ran = place.check("p.zkplan", policy=half)
    assert ran.code == 1
    assert "is not there; it was so before" in ran.stdout
    place.check(
        "p.zkplan", policy=place.policy('existing = "report"' + POLICY.replace("10%", "50%"), "old.toml")
    ).succeeded()
    place.eyes.delete(f"{place.root}/hosts/h1")
    place.check("p.zkplan", policy=half).failed(3, f"{place.root}/hosts/h1", "moved on", "plan again")


def test_a_plan_whose_target_is_elsewhere(place: Place, zk: Server) -> None:
    """--at: a server, or a snapshot of the target. The plan's excludes stay left out."""
    place.put("/big", b"x" * 2000)
    excluded = ("--exclude", f"{place.root}/big")
    place.plan(lambda: place.eyes.set(f"{place.root}/services/web/active", b"green"), *excluded).succeeded()
    for at in (f"zk://{zk.hosts}", place.location):
        ran = place.check("p.zkplan", "--at", at).succeeded()
        assert "big, which is left out" in ran.stderr
    place.program("snapshot", place.location, "-o", "now.zks").succeeded()
    place.check("p.zkplan", "--at", "now.zks").succeeded()
    place.check("p.zkplan", "--at", "p.zkplan").failed(2, "plan file")
    place.check("p.zkplan", "--at", place.location + "/pools").failed(2, "the plan is for")
    place.program("snapshot", place.location + "/pools", "-o", "other.zks").succeeded()
    place.check("p.zkplan", "--at", "other.zks").failed(2, "which it does not hold")


TOGETHER = """
format = 1
[[together]]
name = "a pool and its set"
paths = ["ROOT/pools/{x}", "ROOT/sets/{x}"]
"""


def test_what_is_to_change_together_is_looked_for_in_the_batches(place: Place) -> None:
    """Goal: a policy that the plan was not made under can find a torn group. Method: tiny batches, with and without."""
    place.policy(TOGETHER)

    def change() -> None:
        for number in range(40):
            place.put(f"/pools/p{number}", b"x" * 100)
            place.put(f"/sets/p{number}", b"x" * 100)

    place.plan(change, "--batch-bytes", 1024, "--policy", "policy.toml").succeeded()
    place.check("p.zkplan", policy=None).succeeded()
    assert place.check("p.zkplan").succeeded().stdout == "sound: 1 rule judged\n"
    place.plan(change, "--batch-bytes", 1024).succeeded()
    ran = place.check("p.zkplan")
    assert ran.code == 1
    assert "2 paths that change together do so in batches" in ran.stdout


def test_comparisons_heed_the_policy_and_say_what_they_do_not(place: Place) -> None:
    """The file and the command line are added to each other."""
    place.program("snapshot", place.location, "-o", "was.zks").succeeded()
    place.put("/hosts/h1", b"new")
    place.put("/pools/blue", b"new")
    place.policy(f'{POLICY}\n[[exclude]]\npath = "ROOT/hosts"\n')
    for command in ("diff", "verify"):
        ran = place.program(command, place.location, "was.zks", "--policy", "policy.toml")
        assert ran.code == 1
        assert "/pools/blue" in ran.stdout
        assert "/hosts" not in ran.stdout
        assert "rules are not judged here" in ran.stderr
        both = ("--policy", "policy.toml", "--exclude", f"{place.root}/pools")
        assert place.program(command, place.location, "was.zks", *both).code == 0
    data = place.policy("format = 1\n[compare]\ndata = false", "acl.toml")
    assert place.program("diff", place.location, "was.zks", "--policy", data).code == 0


def test_checks_take_values_too(place: Place) -> None:
    """The library: a snapshot, a plan, rules without a file."""
    policy = zkmig.load_policy(place.program.folder / "policy.toml")
    tree = zkmig.read(place.location)
    assert zkmig.check(tree, policy=policy).is_sound
    assert zkmig.check(tree, policy=policy.rules).judged == ("a service's active pool", "small")
    with pytest.raises(zkmig.BadInput, match="no rules"):
        zkmig.check(tree, policy=Rules())
    place.put("/services/web/active", b"green")
    plan = zkmig.make_plan(tree, place.location, policy=policy)
    assert zkmig.check(plan).is_sound
    assert zkmig.check(plan, target=zkmig.read(place.location)).is_sound
    with pytest.raises(zkmig.StalePlan):
        zkmig.check(plan, target=tree)


def test_a_slip_of_the_pen_is_said_by_every_command(place: Place) -> None:
    """A rule that meets no node: when a plan is made, and when a tree or a plan is judged. What was wrong before and is
    taken is told, too."""
    text = POLICY.replace("ROOT/hosts/*", "ROOT/host/*").replace("ROOT/services/{svc}", "ROOT/service/{svc}")
    masks = 'mask = ["ROOT/pools/*", "ROOT/pool/*"]'
    place.policy(f'existing = "report"\n{masks}' + text.replace("1 KiB", "4 B"))
    ran = place.plan(lambda: place.eyes.delete(f"{place.root}/hosts/h1"), "--policy", "policy.toml").succeeded()
    assert f"rules     not judged: hosts: no node matches {place.root}/host/*\n" in ran.stdout
    assert ran.stdout.count("matches the mask") == 1
    assert f"note      no node matches the mask {place.root}/pool/*\n" in ran.stdout
    assert "rules     sound: 2 violations of 1 rule, all so before; 2 rules judged, 2 not judged\n" in ran.stdout
    assert f"rules     small: {place.root}/pools/blue (6 bytes" in ran.stdout
    ran = place.check("p.zkplan", policy=None).succeeded()
    assert f"not judged: hosts: no node matches {place.root}/host/*\n" in ran.stderr
    assert "; it was so before\n" in ran.stdout
    place.check("p.zkplan").succeeded()
    ran = place.check(place.location)
    assert ran.code == 1
    assert f"not judged: a service's active pool: no node matches {place.root}/service/{{svc}}/active\n" in ran.stderr
    verdict = (
        place.plan(lambda: place.put("/new", b"abc"), "--policy", "policy.toml", "--json")
        .succeeded()
        .document["verdict"]
    )
    assert (verdict["sound"], verdict["counts"]["violations"], verdict["violations"][0]["is_old"]) == (True, 2, True)


def test_a_check_without_end_is_ended_by_the_timeout(place: Place) -> None:
    """What an operator's own code does is no reason to hang, nor to call the tree sound."""
    (place.program.folder / "checks.py").write_text("def check(tree):\n    while True: pass\n")
    policy = place.policy('format = 1\n[[checks]]\ncall = "checks.py:check"\n')
    place.check(place.location, "--timeout", "3", policy=policy).failed(143, "--timeout")
