"""What only an attempt can tell, asked by transactions that cannot succeed.

A multi whose last operation checks a node that is never there is gone through in order, refused, and leaves nothing
behind but its zxid (PrepRequestProcessor). The leader answers, whichever member is asked: its settings count for every
write there is.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from zkmig.errors import OutcomeUnknown, Unreachable
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL, WRITE, AclList, Identity, grants
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.replies import AclResult, MultiResult
from zkmig.wire.requests import Check, CreateContainer, CreateTtl, GetAcl, Multi, SetData, WriteOp

CONFIG: Final = f"{paths.SYSTEM_ROOT}/config"
"""Readable by everybody and writable by nobody but super, on every server since 3.5 (DataTree.addConfigNode)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """ttl, containers: whether such nodes are admitted. writes_unchecked: whether writes pass without a look at ACLs.

    None: it did not come out.
    """

    ttl: bool | None = None
    containers: bool | None = None
    writes_unchecked: bool | None = None


def ask_leader(client: Client, root: str, identities: tuple[Identity, ...]) -> Asked:
    """Three questions. root: a path below which the nodes are tried that never come to be. Raises Unreachable."""
    token = secrets.token_hex(8)
    never = Check(f"{paths.SYSTEM_ROOT}/zkmig-never-{token}", 0)
    probe = paths.join(root, f"/zkmig-probe-{token}")

    def refusal(operation: WriteOp) -> int | None:
        """The code with which the server refuses it, 0 for none; None if it said something else."""
        try:
            result = client.call_reply(Multi((operation, never))).result
        except OutcomeUnknown as error:  # to the client it is a write, but it could not have landed
            raise Unreachable(error.what, error.where, "try again") from error
        if not isinstance(result, MultiResult):
            return None
        index = result.failed_index
        return None if index is None else 0 if index == 1 else int(result.code)

    unchecked: bool | None = None
    acl = _config_acl(client)
    if acl is not None and not grants(acl, identities) & WRITE:
        # A blind -1 is safe here: the check behind it fails whatever becomes of it.
        code = refusal(SetData(CONFIG, b"", -1))
        unchecked = {0: True, Code.NO_AUTH: False}.get(code) if code is not None else None
    return Asked(
        _admits(refusal(CreateTtl(probe, None, OPEN_ACL, 60_000))),
        _admits(refusal(CreateContainer(probe, None, OPEN_ACL))),
        unchecked,
    )


def _admits(code: int | None) -> bool | None:
    """A kind is looked at before the permission: whoever may not create there is told nothing but that."""
    if code is None:
        return None
    return code not in (Code.UNIMPLEMENTED, Code.BAD_ARGUMENTS)


def _config_acl(client: Client) -> AclList | None:
    result = client.call_reply(GetAcl(CONFIG)).result
    return result.acl if isinstance(result, AclResult) else None
