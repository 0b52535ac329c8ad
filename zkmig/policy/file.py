"""policy.toml: a Policy as a file, which docs/policy.md explains. Errors name file, line and field.

format = 1

[[exclude]]
path = "/app/locks"
reason = "taken and given back by the minute"

[[references]]
name = "a service's active pool"
from = "/services/{svc}/active"
to = "/pools/{value}"

[[guardrails]]
name = "hosts"
pattern = "/hosts/*"
max_deletions = "10%"
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from zkmig.changes import ComparePolicy
from zkmig.errors import BadInput
from zkmig.model.acl import Identity
from zkmig.model.patterns import Pattern, parse_path
from zkmig.model.znode import Kind
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.identities import AclRule, stored_identity
from zkmig.policy.jsondata import path_into
from zkmig.policy.kinds import KindRule
from zkmig.policy.lines import Lines, named
from zkmig.policy.policy import Policy
from zkmig.policy.relocation import PathRule
from zkmig.policy.rules import (
    Guardrail,
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    PythonCheck,
    Reference,
    Rules,
    SameCount,
    Together,
    Unchanged,
)
from zkmig.policy.schema import loaded_schema

FORMAT = 1
FILE_BYTES_MAX = 1024 * 1024
FAULTS_NAMED_MAX = 50
COUNT_MAX = 2**31 - 1
Resolve = Callable[[str], Identity]
Pin = Callable[[str, str, str, str], PythonCheck]  # name, call, folder, reason


def _or_value_error(make: Callable[[str], Any]) -> Callable[[object], Any]:
    """pydantic gathers ValueErrors; a BadInput would end it at the first."""

    def made(text: object) -> Any:
        if not isinstance(text, str):
            raise ValueError("it wants a text")
        try:
            return make(text)
        except BadInput as error:
            raise ValueError(str(error)) from None

    return made


_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")
_SIZE = re.compile(r"([0-9]{1,12}) ?(B|KiB|MiB)?")
_UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def _share(given: object) -> object:
    """ "10%" as 0.1 in a tuple of its own, so that it cannot be taken for a count."""
    if type(given) is int and 0 <= given <= COUNT_MAX:
        return given
    found = _SHARE.fullmatch(given) if isinstance(given, str) else None
    if found is None or float(found[1]) > 100:
        raise ValueError('write a number of nodes, or a share like "10%"')
    return (float(found[1]) / 100,)


def _size(given: object) -> object:
    if type(given) is int and 0 <= given <= COUNT_MAX:
        return given
    found = _SIZE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise ValueError('write a number of bytes, or a size like "64 KiB"')
    return int(found[1]) * _UNITS[found[2]]


def _format(given: object) -> object:
    if type(given) is int and given == FORMAT:  # to Python, true and 1.0 are 1
        return given
    raise ValueError(f"this version of zkmig reads format {FORMAT}")


def _true(given: object) -> object:
    if given is True:
        return given
    raise ValueError("it can only be true; leave it out otherwise")


_True = Annotated[bool, BeforeValidator(_true)]
_Path = Annotated[str, AfterValidator(_or_value_error(lambda text: parse_path(text, "this")))]
_Pattern = Annotated[CapturePattern, BeforeValidator(_or_value_error(CapturePattern.parse))]
_Count = Annotated[int, Field(ge=1, le=COUNT_MAX, strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class _Compare(_Table):
    data: bool = True
    acl: bool = True
    kind: bool = True
    counter: bool = True


class _Subtree(_Table):
    path: _Path
    reason: str = ""


class _MapPath(_Table):
    before: _Path = Field(alias="from")
    after: _Path = Field(alias="to")
    reason: str = ""


class _MapAcl(_Table):
    before: str = Field(alias="from")
    after: str | None = Field(default=None, alias="to")
    drop: bool = False
    reason: str = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> _MapAcl:
        if (self.after is None) == (not self.drop):
            raise ValueError("give either to, or drop = true")
        return self


class _Map(_Table):
    paths: list[_MapPath] = []
    acls: list[_MapAcl] = []


class _KindOf(_Table):
    pattern: Annotated[Pattern, BeforeValidator(_or_value_error(Pattern.parse))]
    kind: Literal["container", "ttl"]
    ttl_ms: int | None = None
    reason: str = ""


class _Reference(_Table):
    name: str = ""
    source: _Pattern = Field(alias="from")
    target: str = Field(alias="to")
    json_path: str | None = Field(default=None, alias="json")
    required: bool = True
    strip: bool = False
    reason: str = ""


class _Guardrail(_Table):
    name: str = ""
    pattern: _Pattern
    reason: str = ""
    max_deletions: Annotated[int | tuple[float], BeforeValidator(_share)] | None = None
    min_children: _Count | None = None
    never_empty: _True | None = None
    unchanged: _True | None = None
    max_size: Annotated[int, BeforeValidator(_size)] | None = None
    is_json: _True | None = Field(default=None, alias="json")
    json_schema: str | dict[str, Any] | None = Field(default=None, alias="schema")
    same_count: _True | None = None

    @model_validator(mode="after")
    def _some(self) -> _Guardrail:
        if not self.limits():
            raise ValueError(f"it limits nothing: give at least one of {', '.join(LIMITS)}")
        return self

    def limits(self) -> list[str]:
        """Names of the limits that are given."""
        fields = {"json": "is_json", "schema": "json_schema"}
        return [limit for limit in LIMITS if getattr(self, fields.get(limit, limit)) is not None]


LIMITS = (
    "max_deletions",
    "min_children",
    "never_empty",
    "unchanged",
    "max_size",
    "json",
    "schema",
    "same_count",
)


class _Together(_Table):
    name: str = ""
    paths: Annotated[list[_Pattern], Field(min_length=1)]
    reason: str = ""


class _Check(_Table):
    name: str = ""
    call: Annotated[str, Field(min_length=1)]
    reason: str = ""


class _File(_Table):
    format: Annotated[int, BeforeValidator(_format)]
    existing: Literal["refuse", "report"] = "refuse"
    quotas: bool = False
    compare: _Compare = _Compare()
    include: list[_Subtree] = []
    exclude: list[_Subtree] = []
    map: _Map = _Map()
    kinds: list[_KindOf] = []
    references: list[_Reference] = []
    guardrails: list[_Guardrail] = []
    together: list[_Together] = []
    checks: list[_Check] = []
    mask: list[_Pattern] = []


# -- reading ----------------------------------------------------------------------------------------------------------


def load(path: str, pin: Pin, resolve: Resolve | None = None) -> Policy:
    """The policy in a file. pin: finds a check in Python and pins it to its source. resolve: makes an identity of its
    text; None: only ids as servers store them.

    BadInput names every fault with its line and field; it has more than one line where there are several.
    """
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number too long to be read is no TOMLDecodeError
        what = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it holds what cannot be read"
        raise BadInput(f"this is no TOML: {what}", path, "docs/policy.md shows a policy") from None
    try:
        parsed = _File.model_validate(raw)
    except ValidationError as error:
        faults = [(_field(fault["loc"], raw), _message(fault)) for fault in error.errors(include_url=False)]
        raise _bad(path, text, faults) from None
    maker = _Maker(parsed, Path(path).resolve().parent, pin, resolve or stored_identity)
    policy = maker.policy()
    if maker.faults:
        raise _bad(path, text, maker.faults)
    return policy


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadInput(f"the policy cannot be read: {error.strerror}", path, "check the name") from None
    except ValueError:  # a NUL in the name
        raise BadInput("a file name cannot hold NUL", repr(path), "check the name") from None
    if len(raw) > FILE_BYTES_MAX:
        raise BadInput(f"a policy of more than {FILE_BYTES_MAX} bytes", path, "is this the right file?")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"this is no TOML: not UTF-8 at byte {error.start}", path, "write it in UTF-8") from None


def _bad(path: str, text: str, faults: list[tuple[tuple[str | int, ...], str]]) -> BadInput:
    """One error for all faults, in the order of their lines."""
    lines = Lines(text)
    placed = sorted({(lines.of(field), named(field), what) for field, what in faults})
    line, field, what = placed[0]
    error = BadInput(f"{field}: {what}" if field else what, f"{path} line {line}", "docs/policy.md names every field")
    for line, field, what in placed[1:FAULTS_NAMED_MAX]:
        error.add_note(f"  also: {path} line {line}: {field}: {what}")
    if len(placed) > FAULTS_NAMED_MAX:
        error.add_note(f"  also: {len(placed) - FAULTS_NAMED_MAX} more")
    return error


def _field(place: tuple[str | int, ...], raw: Any) -> tuple[str | int, ...]:
    """pydantic's place less what it adds of its own: branches of unions."""
    found: list[str | int] = []
    for part in place:
        if isinstance(part, int) and not isinstance(raw, list):
            break
        if isinstance(part, str) and not isinstance(raw, dict):
            break
        found.append(part)
        raw = (
            raw[part] if isinstance(part, int) and part < len(raw) else raw.get(part) if isinstance(raw, dict) else None
        )
    return tuple(found)


_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "missing": "it has to be given",
    "string_type": "it wants a text",
    "bool_type": "it wants true or false",
    "int_type": "it wants a whole number",
    "list_type": "it wants a list",
    "model_type": "it wants a table",
    "model_attributes_type": "it wants a table",
}


def _message(fault: Any) -> str:
    if fault["type"] == "literal_error":
        return f"it can only be {fault['ctx']['expected']}".replace("'", '"')
    text: str = _MESSAGES.get(fault["type"], fault["msg"])
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        near = difflib.get_close_matches(fault["loc"][0], list(_File.model_fields), 1)
        text += f"; did you mean {near[0]}?" if near else ""
    return text.removeprefix("Value error, ")


class _Maker:
    """From tables to values; faults are gathered."""

    def __init__(self, tables: _File, folder: Path, pin: Pin, resolve: Resolve) -> None:
        self._tables = tables
        self._folder = folder
        self._pin = pin
        self._resolve = resolve
        self._names: set[str] = set()
        self.faults: list[tuple[tuple[str | int, ...], str]] = []

    def policy(self) -> Policy:
        tables = self._tables
        acls = [self._at(("map", "acls", at), self._acl_rule, rule) for at, rule in enumerate(tables.map.acls)]
        kinds = [self._at(("kinds", at, "ttl_ms"), _kind_rule, rule) for at, rule in enumerate(tables.kinds)]
        rules = Rules(
            references=tuple(self._references()),
            guardrails=tuple(self._guardrails()),
            together=tuple(
                Together(self._name(("together", at), rule.name, f"together {at + 1}"), tuple(rule.paths), rule.reason)
                for at, rule in enumerate(tables.together)
            ),
            checks=tuple(self._checks()),
            report_existing=tables.existing == "report",
        )
        made = self._at(("map", "acls"), lambda _: Policy(map_acls=tuple(rule for rule in acls if rule)), None)
        return Policy(
            compare=ComparePolicy(**tables.compare.model_dump()),
            includes=tuple(each.path for each in tables.include),
            excludes=tuple(each.path for each in tables.exclude),
            map_paths=tuple(PathRule(each.before, each.after) for each in tables.map.paths),
            map_acls=made.map_acls if made else (),
            kinds=tuple(rule for rule in kinds if rule),
            quotas=tables.quotas,
            rules=rules,
            masks=tuple(tables.mask),
            reasons={each.path: each.reason for each in (*tables.include, *tables.exclude) if each.reason},
        )

    def _at(self, field: tuple[str | int, ...], make: Callable[[Any], Any], given: Any) -> Any:
        try:
            return make(given)
        except BadInput as error:
            self.faults.append((field, str(error)))
            return None

    def _name(self, field: tuple[str | int, ...], given: str, otherwise: str) -> str:
        name = given or otherwise
        if name in self._names:
            self.faults.append(((*field, "name"), f"two rules are named {name!r}"))
            name = f"{name}, {len(self.faults)}"  # only to go on to the other faults
        self._names.add(name)
        return name

    def _acl_rule(self, rule: _MapAcl) -> AclRule:
        return AclRule(self._resolve(rule.before), None if rule.after is None else self._resolve(rule.after))

    def _references(self) -> Iterator[Reference]:
        for at, rule in enumerate(self._tables.references):
            field = ("references", at)
            name = self._name(field, rule.name, f"{rule.source} names {rule.target}")
            target = self._at((*field, "to"), partial(_template, rule.source), rule.target)
            if rule.json_path is not None:
                self._at((*field, "json"), path_into, rule.json_path)
            if target is not None:
                yield Reference(name, rule.source, target, rule.json_path, rule.required, rule.strip, rule.reason)

    def _guardrails(self) -> Iterator[Guardrail]:
        for at, rule in enumerate(self._tables.guardrails):
            limits = rule.limits()
            for limit in limits:
                otherwise = f"{limit} of {rule.pattern}"
                given = f"{rule.name}: {limit}" if rule.name and len(limits) > 1 else rule.name
                name = self._name(("guardrails", at), given, otherwise)
                yield from self._guardrail(("guardrails", at, limit), limit, rule, name)

    def _guardrail(self, field: tuple[str | int, ...], limit: str, rule: _Guardrail, name: str) -> Iterator[Guardrail]:
        pattern, reason = rule.pattern, rule.reason
        match limit:
            case "max_deletions":
                most = rule.max_deletions
                if isinstance(most, tuple):
                    yield MaxDeletions(name, pattern, None, most[0], reason)
                else:
                    yield MaxDeletions(name, pattern, most, None, reason)
            case "min_children":
                assert rule.min_children is not None
                yield MinChildren(name, pattern, rule.min_children, reason)
            case "never_empty":
                yield NeverEmpty(name, pattern, reason)
            case "unchanged":
                yield Unchanged(name, pattern, reason)
            case "max_size":
                assert rule.max_size is not None
                yield MaxSize(name, pattern, rule.max_size, reason)
            case "json":
                yield JsonData(name, pattern, None, reason)
            case "schema":
                schema = self._at(field, self._schema, rule.json_schema)
                if schema is not None:
                    yield JsonData(name, pattern, schema, reason)
            case "same_count":
                yield SameCount(name, pattern, reason)
            case _:
                raise AssertionError(limit)

    def _schema(self, given: str | dict[str, Any]) -> dict[str, Any]:
        return loaded_schema(given, self._folder)

    def _checks(self) -> Iterator[PythonCheck]:
        for at, rule in enumerate(self._tables.checks):
            field = ("checks", at)
            name = self._name(field, rule.name, rule.call)
            check = self._at((*field, "call"), partial(self._pinned, name, rule.reason), rule.call)
            if check is not None:
                yield check

    def _pinned(self, name: str, reason: str, call: str) -> PythonCheck:
        return self._pin(name, call, str(self._folder), reason)


def _template(source: CapturePattern, text: str) -> Template:
    return Template.parse(text, source.names)


def _kind_rule(rule: _KindOf) -> KindRule:
    kind = Kind.CONTAINER if rule.kind == "container" else Kind.TTL
    if kind is Kind.CONTAINER and rule.ttl_ms is not None:
        raise BadInput("only ttl nodes have a time to live", "", 'leave it out, or write kind = "ttl"')
    return KindRule(kind, rule.pattern, rule.ttl_ms or 0)
