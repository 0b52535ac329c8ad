"""All that the doctor has seen of one location, before anything is judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from zkmig.backend import BackendName
from zkmig.doctor.access import Access
from zkmig.doctor.members import Member
from zkmig.doctor.questions import Asked
from zkmig.epoch.control import Registration, Roles
from zkmig.epoch.owner import OwnerView
from zkmig.epoch.record import Record
from zkmig.model.acl import Identity
from zkmig.model.quota import Quota
from zkmig.source.location import EnsembleLocation


@dataclass(frozen=True, slots=True)
class ScopeSeen:
    """One scope on, above or below the path. record None: `fault` says why it could not be read."""

    registration: Registration
    record: Record | None = None
    owner: OwnerView | None = None
    roles: Roles | None = None
    fault: str = ""


@dataclass(slots=True)
class Seen:
    """access None, asked None: not looked for. usage: nodes and bytes under each quota. ..._fault: why it is not known.

    schemes: of the credentials given. session_ms: as zkmig asks for.
    """

    place: EnsembleLocation
    backend: BackendName
    members: list[Member]
    schemes: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    session_ms: int = 0
    control: str = ""
    access: Access | None = None
    scopes: list[ScopeSeen] = field(default_factory=list)
    scopes_fault: str = ""
    quotas: tuple[Quota, ...] = ()
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    quotas_fault: str = ""
    asked: Asked | None = None
    asked_fault: str = ""
    zxid_wanted: int = 0

    @property
    def is_super(self) -> bool:
        """Whether no ACL binds the session."""
        return any(each.scheme == "super" for each in self.identities)

    @property
    def may_be_super(self) -> bool:
        """Whether no ACL may bind the session: before 3.7 (whoAmI) no server tells who it is."""
        return self.is_super or (bool(self.schemes) and not any(each.scheme == "ip" for each in self.identities))

    @property
    def is_standalone(self) -> bool:
        """Whether there is but one server, as far as is known."""
        modes = {member.mode for member in self.members if member.mode}
        return modes == {"standalone"} and len(self.members) == 1
