"""Carry: from two snapshots as read to the two that are compared. Pure; everything the operator declared is in force.

Order: excludes, kinds (their patterns name paths on the source), ACL identities, relocation, includes. What is
compared afterwards has the shape of the target, and the source's root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.patterns import parse_path
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.policy.identities import with_identities
from zkmig.policy.kinds import RuleUse, with_kinds
from zkmig.policy.policy import Policy
from zkmig.policy.relocation import Relocation, relocated
from zkmig.policy.selection import common, merged, only, settled, waypoints
from zkmig.source.read import narrow


@dataclass(frozen=True, slots=True)
class Prepared:
    """source, target: to be compared. relocation: where what the source has arrives. includes: relative to the
    target's root. kinds: what each rule did. notes: rules that met nothing, nodes made up."""

    source: Snapshot
    target: Snapshot | None
    relocation: Relocation = field(default_factory=Relocation)
    includes: tuple[str, ...] = ()
    kinds: tuple[RuleUse, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(source: Snapshot, target: Snapshot | None, policy: Policy, target_root: str | None = None) -> Prepared:
    """Put the policy in force. target None: it is not there yet, and its root would be target_root.

    BadInput for a rule that cannot be: outside the roots, two sources to one target, a node that is not there;
    PlanImpossible for an ACL that would come out empty.
    """
    root = target.root if target is not None else target_root or source.root
    source, target = _less_excludes(source, target, policy.excludes, root)
    notes: list[str] = []
    source, uses = with_kinds(source, policy.kinds)
    notes += [f"no node of the source matches --kind {use.rule}" for use in uses if not use.nodes]
    source, unused = with_identities(source, policy.map_acls)
    notes += [f"no ACL of the source names {str(rule).partition('=')[0].removeprefix('drop ')}" for rule in unused]
    relocation = Relocation.of(policy.map_paths, source.root, root)
    includes = _includes(source, target, policy.includes, relocation, root)
    source, made_up = relocated(source, relocation)
    notes += [f"{paths.join(root, path)}: made up, empty, above what is relocated" for path in made_up]
    points = set(made_up)
    if includes and "" not in includes:
        points |= waypoints(includes)
        source = only(source, includes)
        target = None if target is None else only(target, includes)
        _refuse_unknown(source, target, includes, root)
    if points:
        arrived = [new for _, new in relocation.moves if not includes or common((new,), includes) == (new,)]
        source = settled(source, target, points, (*includes, *arrived))
    return Prepared(source, target, relocation, includes, uses, tuple(notes))


def source_tops(policy: Policy, source_root: str, target_root: str | None) -> tuple[str, ...]:
    """Where all that is included lies on the source, absolute; () where that is not known, or is all of it."""
    tops: list[str] = []
    for text in policy.includes:
        include = parse_path(text, "--include")
        if paths.contains(source_root, include):
            tops.append(include)
        elif target_root is not None and paths.contains(target_root, include) and not policy.map_paths:
            tops.append(paths.join(source_root, paths.relative_to(include, target_root)))
        else:
            return ()  # some other path leads there; what is read too much is dropped by `prepare`
    return () if source_root in tops else tuple(tops)


def target_tops(policy: Policy, source: Snapshot, target_root: str) -> tuple[str, ...]:
    """Where all that is included, by the policy or by what the source holds, lies on the target, likewise."""
    relocation = Relocation.of(policy.map_paths, source.root, target_root)
    includes = _includes(source, None, policy.includes, relocation, target_root)
    return () if "" in includes else tuple(paths.join(target_root, each) for each in includes)


def _less_excludes(
    source: Snapshot, target: Snapshot | None, excludes: Iterable[str], target_root: str
) -> tuple[Snapshot, Snapshot | None]:
    ours, theirs = list(source.scope.excludes), list(target.scope.excludes) if target is not None else []
    for text in excludes:
        exclude = parse_path(text, "--exclude")
        takers = [root != exclude and paths.contains(root, exclude) for root in (source.root, target_root)]
        if not any(takers):
            raise BadInput("this exclude lies below neither root", exclude, "excludes are absolute paths on a server")
        for side, takes in zip((ours, theirs), takers, strict=True):
            side += [exclude] if takes else []
    return (
        narrow(source, tuple(dict.fromkeys(ours))),
        None if target is None else narrow(target, tuple(dict.fromkeys(theirs))),
    )


def _includes(
    source: Snapshot, target: Snapshot | None, given: Iterable[str], relocation: Relocation, target_root: str
) -> tuple[str, ...]:
    """What is selected, relative to the target's root: asked for, and all that a side's own scope knows of."""
    asked: list[str] = []
    for text in given:
        include = parse_path(text, "--include")
        if paths.contains(source.root, include):
            asked += relocation.images(paths.relative_to(include, source.root))
        elif paths.contains(target_root, include):
            asked.append(paths.relative_to(include, target_root))
        else:
            raise BadInput("this include lies below neither root", include, "includes are absolute paths on a server")
    known = [image for each in _selected(source.scope) for image in relocation.images(each)]
    found = common(merged(asked), merged(known))
    if target is not None:
        found = common(found, merged(_selected(target.scope)))
    if not found and (asked or known):
        raise BadInput("nothing is left of what is included", target_root, "check --include, and what the files hold")
    return found


def _selected(scope: Scope) -> list[str]:
    return [paths.relative_to(each, scope.root) for each in scope.includes if paths.contains(scope.root, each)]


def _refuse_unknown(source: Snapshot, target: Snapshot | None, includes: tuple[str, ...], root: str) -> None:
    """An include that neither side has is a slip of the pen, and would leave all of it out in silence."""
    for include in includes:
        sides = [side for side in (source, target) if side is not None]
        if not any(paths.join(side.root, include) in side for side in sides):
            raise BadInput("neither side has what is included", paths.join(root, include), "check --include")
