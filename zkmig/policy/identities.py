"""ACL identities by rule: who an entry names on the target. No rule can open a node that was not open."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from zkmig.errors import BadInput, PlanImpossible
from zkmig.model.acl import WORLD, Acl, AclList, Identity
from zkmig.model.snapshot import Snapshot

# An "=" that divides two identities: ids hold "=" themselves (base64), but a scheme and a colon follow this one.
_DIVIDER = re.compile(r"=(?=[A-Za-z][A-Za-z0-9_.-]*:)")
_HASHED = re.compile(r"[^:]+:[A-Za-z0-9+/]{27}=")
_FORM = "write it like sasl:app@OLD=sasl:app@NEW"

Resolve = Callable[[str], Identity]


@dataclass(frozen=True, slots=True)
class AclRule:
    """Entries of `before` name `after` instead. after None: they are taken out."""

    before: Identity
    after: Identity | None

    def __post_init__(self) -> None:
        if self.after == WORLD and self.before != WORLD:
            raise BadInput(
                "a rule must not open nodes to everybody", str_of(self.before), "name an identity, or change the source"
            )

    @classmethod
    def parse(cls, text: str, resolve: Resolve | None = None) -> AclRule:
        """SCHEME:ID=SCHEME:ID. resolve: makes an identity of its text; None: only ids as servers store them."""
        divided = list(_DIVIDER.finditer(text))
        if len(divided) != 1:
            raise BadInput("not a rule for identities: it must divide into two at one =", "", _FORM)
        at = divided[0].start()
        resolve = resolve or stored_identity
        return cls(resolve(text[:at]), resolve(text[at + 1 :]))

    @classmethod
    def parse_drop(cls, text: str, resolve: Resolve | None = None) -> AclRule:
        """SCHEME:ID, which is taken out of every ACL."""
        return cls((resolve or stored_identity)(text), None)

    def __str__(self) -> str:
        return f"{str_of(self.before)}={str_of(self.after)}" if self.after else f"drop {str_of(self.before)}"


def str_of(identity: Identity) -> str:
    """For people: a digest without its hash."""
    name = identity.id.partition(":")[0] if identity.scheme == "digest" else identity.id
    return f"{identity.scheme}:{name}"


def stored_identity(text: str) -> Identity:
    """SCHEME:ID as ACLs hold it. A digest must be a hash: its error never repeats what may be a password."""
    scheme, colon, name = text.partition(":")
    if not colon or not scheme or not name:
        raise BadInput("not an identity", text if colon else "", "write world:anyone, digest:user:HASH or sasl:user")
    if scheme in ("auth", "super"):
        raise BadInput(f"no ACL can name {scheme}", "", "write world:anyone, digest:user:HASH or sasl:user")
    if scheme == "world" and name != "anyone":
        raise BadInput("the only world identity is anyone", text, "write world:anyone")
    if scheme == "digest" and not _HASHED.fullmatch(name):
        raise BadInput(
            "what follows the user is not the hash that ACLs hold",
            f"digest:{name.partition(':')[0]}",
            "write digest:user:HASH, never a password",
        )
    return Identity(scheme, name)


def check_rules(rules: tuple[AclRule, ...]) -> None:
    """BadInput for two rules about one identity."""
    seen: set[Identity] = set()
    for rule in rules:
        if rule.before in seen:
            raise BadInput("two rules are about one identity", str_of(rule.before), "keep one of them")
        seen.add(rule.before)


def mapped_acl(acl: AclList, rules: dict[Identity, Identity | None]) -> AclList:
    """The list with its identities replaced; entries that come to name one identity merge where the first stands."""
    if not any(Identity(entry.scheme, entry.id) in rules for entry in acl):
        return acl
    found: dict[Identity, int] = {}
    for entry in acl:
        identity = Identity(entry.scheme, entry.id)
        after = rules.get(identity, identity)
        if after is not None:
            found[after] = found.get(after, 0) | entry.perms
    return tuple(Acl(perms, *identity) for identity, perms in found.items())


def with_identities(snapshot: Snapshot, rules: tuple[AclRule, ...]) -> tuple[Snapshot, tuple[AclRule, ...]]:
    """The snapshot with every ACL mapped, and the rules that no ACL named.

    PlanImpossible where a list would become empty, which a server takes for open to everybody.
    """
    if not rules:
        return snapshot, ()
    check_rules(rules)
    by_identity = {rule.before: rule.after for rule in rules}
    columns = snapshot.columns
    used = [False] * len(columns.acl_table)
    for acl_id in columns.acl_ids:
        used[acl_id] = True
    named = {
        Identity(entry.scheme, entry.id)
        for acl, is_used in zip(columns.acl_table, used, strict=True)
        if is_used
        for entry in acl
    }
    table = []
    for acl_id, acl in enumerate(columns.acl_table):
        mapped = mapped_acl(acl, by_identity)
        if acl and not mapped and used[acl_id]:
            raise PlanImpossible(
                "its ACL would be empty, which opens it to everybody",
                snapshot.path_at(columns.acl_ids.index(acl_id)),
                "map the identity to another one instead of dropping it",
            )
        table.append(mapped)
    replaced = dataclasses.replace(columns, acl_table=tuple(table))
    unused = tuple(rule for rule in rules if rule.before not in named)
    return Snapshot(replaced, snapshot.scope, snapshot.provenance, snapshot.consistency), unused
