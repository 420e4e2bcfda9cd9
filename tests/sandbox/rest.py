"""Oracle's REST protocol over the :class:`~.crm.Crm`: one request in, one answer out."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal
from urllib.parse import parse_qs, unquote

import msgspec

from .crm import Crm, NotFoundError, Record
from .generator import OWN_PARTY_ID
from .query import Junction, Node, Predicate, QueryError, parse
from .schema import Resource

ROOT = "/crmRestApi/resources"
TOKEN_PATH = "/oauth2/v1/token"
VERSIONS = ("11.13.18.05", "11.12.1.0")
FRAMEWORK_VERSIONS = range(1, 10)
ERROR_TYPE = "application/vnd.oracle.adf.error+json"
RECORD_SETS = ("MYOPTIES", "MYTEAMOPTIES", "MYSUBORDOPTIES", "MYTERROPTIES", "ALLOPTIES")


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How this CRM is set up; ``PATCH /_sandbox/settings`` changes it."""

    page_cap: int = 499
    """``limit`` is silently cut to this."""
    default_record_set: str = "MYOPTIES"
    """What is seen without a finder; ``ALLOPTIES`` shows everything."""
    visible: str = ""
    """A row-match condition: the only opportunities the account may see."""
    forbidden: tuple[str, ...] = ()
    """Answered with 403: ``opportunities``, ``opportunities/describe``, ``accounts``..."""
    token_seconds: int = 3600
    """How long a bearer token lives."""
    naive_offset_minutes: int = 0
    """What an offset-less timestamp literal means, east of UTC."""
    timestamp_format: Literal["seconds", "millis", "zulu"] = "seconds"
    """``+00:00``, ``.000+00:00`` or ``Z`` behind every timestamp."""
    omit_empty_items: bool = False
    """An empty collection has no ``items`` at all."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the account signs in with; a bearer token is got with the client's."""

    user: str
    password: str
    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, header names in lower case, ``path`` still percent-encoded."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    """An HTTP answer and how many rows it carries."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0


@dataclass(slots=True)
class PageShape:
    """How a page lies, where a fault says so."""

    short_by: int = 0
    drop: int = 0
    repeat: int = 0
    has_more: bool | None = None
    total_results: int | Literal["page_cap"] | None = None


class RequestError(Exception):
    """An error answer; the body's form follows framework version and Accept."""

    def __init__(self, status: int, detail: str, path: str = "", code: str = "27008") -> None:
        super().__init__(detail)
        self.status, self.detail, self.path, self.code = status, detail, path, code


_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
}
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The query parameters of a collection or item, checked."""

    limit: int
    offset: int
    fields: tuple[str, ...]
    children: tuple[str, ...]
    only_data: bool
    total_results: bool
    q: str
    finder: str
    order_by: str


class Rest:
    """The protocol. Holds the tokens given out; everything else is the CRM's."""

    def __init__(self, crm: Crm, credentials: Credentials) -> None:
        self.crm = crm
        self.credentials = credentials
        self.settings = Settings()
        self._tokens: dict[str, float] = {}

    def expire_tokens(self) -> int:
        """Forget all bearer tokens; return how many there were."""
        expired = len(self._tokens)
        self._tokens.clear()
        return expired

    def answer(self, request: Request, shape: PageShape | None = None) -> Answer:
        """Answer as the CRM does."""
        if request.path == TOKEN_PATH:
            return self._token(request)
        version = 1
        try:
            version = _framework_version(request)
            answer = self._authorized(request, version, shape or PageShape())
        except RequestError as refusal:
            answer = _error(refusal, request, version)
        except QueryError as error:
            answer = _error(RequestError(400, str(error), f"/{error.attribute}"), request, version)
        except NotFoundError as error:
            answer = _error(RequestError(404, f"Not Found: {error}"), request, version)
        answer.headers["REST-Framework-Version"] = str(version)
        return answer

    # --- who asks -----------------------------------------------------------------------

    def _token(self, request: Request) -> Answer:
        """Client credentials: id and secret by HTTP Basic, a token back."""
        if request.method != "POST":
            return _json(405, {"error": "invalid_request", "error_description": "POST only"})
        expected = (self.credentials.client_id, self.credentials.client_secret)
        if not _matches(_basic(request), expected):
            return _json(
                401,
                {"error": "invalid_client", "error_description": "Client authentication failed."},
            )
        form = parse_qs(request.body.decode("latin-1"))
        if form.get("grant_type") != ["client_credentials"]:
            return _json(
                400,
                {"error": "unsupported_grant_type", "error_description": "client_credentials only"},
            )
        token = secrets.token_urlsafe(32)
        seconds = self.settings.token_seconds
        self._tokens[token] = self.crm.now().timestamp() + seconds
        return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": seconds})

    def _authorize(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._tokens.get(value.strip(), 0.0) > self.crm.now().timestamp():
                return
        elif _matches(_basic(request), (self.credentials.user, self.credentials.password)):
            return
        raise RequestError(401, "401 Unauthorized")

    def _allow(self, name: str) -> None:
        if name in self.settings.forbidden:
            raise RequestError(403, f"You do not have the privilege to view {name}.")

    # --- routing ------------------------------------------------------------------------

    def _authorized(self, request: Request, version: int, shape: PageShape) -> Answer:
        self._authorize(request)
        if request.method != "GET":
            raise RequestError(405, f"{request.method} is not offered here.")
        if not request.path.startswith(ROOT):
            raise RequestError(404, "Not Found")
        steps = [unquote(step) for step in request.path.removeprefix(ROOT).strip("/").split("/")]
        if steps == [""]:
            return _reply(request, self._versions(request), "resourcecollection")
        if steps[0] not in ("latest", *VERSIONS):
            raise RequestError(404, f"Unknown version {steps[0]}.")
        base = f"{_origin(request)}{ROOT}/{VERSIONS[0] if steps[0] == 'latest' else steps[0]}"
        call = _Call(self, request, version, shape, base)
        match steps[1:]:
            case [name] if name in ("opportunities", "accounts", "resources"):
                self._allow(name)
                return call.collection(self.crm.resource(name))
            case [name, "describe"] if name in ("opportunities", "accounts", "resources"):
                self._allow(name)
                self._allow(f"{name}/describe")
                return call.describe(self.crm.resource(name))
            case [name, item] if name in ("opportunities", "accounts", "resources"):
                self._allow(name)
                return call.item(self.crm.resource(name), item)
            case ["opportunities", item, "child", child]:
                self._allow("opportunities")
                return call.child(item, child)
        raise RequestError(404, f"Unknown resource {'/'.join(steps[1:])}.")

    def _versions(self, request: Request) -> dict[str, object]:
        base = f"{_origin(request)}{ROOT}"
        return {
            "items": [
                {
                    "version": version,
                    "isLatest": version == VERSIONS[0],
                    "adf:extension": {
                        "defaultFrameworkVersion": "1",
                        "allowedFrameworkVersions": [str(number) for number in FRAMEWORK_VERSIONS],
                    },
                    "links": [
                        {
                            "rel": "canonical",
                            "href": f"{base}/{version}",
                            "name": version,
                            "kind": "other",
                        }
                    ],
                }
                for version in VERSIONS
            ],
            "links": [{"rel": "self", "href": base, "name": "self", "kind": "other"}],
        }


@dataclass(frozen=True, slots=True)
class _Call:
    """One authorized request to a resource."""

    rest: Rest
    request: Request
    version: int
    shape: PageShape
    base: str

    # --- answers ------------------------------------------------------------------------

    def collection(self, resource: Resource) -> Answer:
        given = self._parameters(resource)
        where = _all_of([*self._scope(resource, given), *self._query(resource, given.q)])
        return self._page(resource, given, where, f"{self.base}/{resource.name}")

    def child(self, number: str, name: str) -> Answer:
        parent = self.rest.crm.resource("opportunities")
        if name not in parent.children:
            raise RequestError(404, f"Unknown child resource {name}.")
        key = self._visible_item(parent, number)
        self.rest.crm.make_children(key)
        child = self.rest.crm.resource(name)
        given = self._parameters(child)
        where = _all_of([_equals(parent.key, key), *self._query(child, given.q)])
        return self._page(child, given, where, f"{self.base}/opportunities/{number}/child/{name}")

    def item(self, resource: Resource, number: str) -> Answer:
        key = self._visible_item(resource, number)
        given = self._parameters(resource)
        rows = self._rows(resource, given, _equals(resource.key, key), 1, 0)
        self._dress(resource, given, rows, f"{self.base}/{resource.name}")
        return _reply(self.request, rows[0][1], "resourceitem", rows=1)

    def describe(self, resource: Resource) -> Answer:
        body: dict[str, object] = {
            "attributes": [attribute.describe() for attribute in resource.attributes.values()],
        }
        if ("metadataMode", "minimal") not in _query_pairs(self.request):
            href = f"{self.base}/{resource.name}"
            body |= {
                "title": resource.name.title(),
                "collection": {
                    "rangeSize": 25,
                    "finders": [{"name": "PrimaryKey", "attributes": [{"name": resource.key}]}],
                    "links": [{"rel": "self", "href": href, "name": "self"}],
                    "actions": [
                        {"name": "get", "method": "GET", "responseType": ["application/json"]}
                    ],
                },
                "item": {"links": [{"rel": "self", "href": f"{href}/{{id}}", "name": "self"}]},
                "children": {
                    name: {
                        "attributes": [
                            attribute.describe()
                            for attribute in self.rest.crm.resource(name).attributes.values()
                        ]
                    }
                    for name in resource.children
                },
                "links": [{"rel": "self", "href": f"{href}/describe", "name": "self"}],
            }
        return _reply(self.request, {"Resources": {resource.name: body}}, "description")

    # --- a page -------------------------------------------------------------------------

    def _page(
        self, resource: Resource, given: _Parameters, where: Node | None, href: str
    ) -> Answer:
        shape = self.shape
        offset = max(0, given.offset - shape.repeat)
        rows = self._rows(resource, given, where, given.limit + 1, offset)
        has_more = len(rows) > given.limit
        rows = rows[: given.limit]
        if shape.short_by:
            rows = rows[: max(1, len(rows) - shape.short_by)]
            has_more = True
        if shape.drop:
            rows = rows[shape.drop :]
        self._dress(resource, given, rows, href)
        body: dict[str, object] = {"items": [record for _, record in rows]}
        if not rows and self.rest.settings.omit_empty_items:
            del body["items"]
        if given.total_results:
            total = self.rest.crm.count(resource, where)
            if shape.total_results == "page_cap":
                total = min(total, given.limit)
            elif shape.total_results is not None:
                total = shape.total_results
            body["totalResults"] = total
        body |= {
            "count": len(rows),
            "hasMore": has_more if shape.has_more is None else shape.has_more,
            "limit": given.limit,
            "offset": given.offset,
            "links": [{"rel": "self", "href": href, "name": resource.name, "kind": "collection"}],
        }
        return _reply(self.request, body, "resourcecollection", rows=len(rows))

    def _rows(
        self, resource: Resource, given: _Parameters, where: Node | None, limit: int, offset: int
    ) -> list[tuple[int, Record]]:
        order = _order_by(resource, given.order_by)
        rows = self.rest.crm.page(resource, given.fields, where, order, limit, offset)
        if self.rest.settings.timestamp_format != "seconds":
            self._restamp(resource, given, rows)
        if self.version >= 9:
            _numbers_as_strings(resource, given.fields, rows)
        for child in given.children:
            for key, record in rows:
                self.rest.crm.make_children(key)
                record[child] = self._expanded(resource, child, key, given)
        return rows

    def _expanded(
        self, resource: Resource, name: str, key: int, given: _Parameters
    ) -> list[Record] | dict[str, object]:
        child = self.rest.crm.resource(name)
        inner = _Parameters(
            limit=25,
            offset=0,
            fields=tuple(child.attributes),
            children=(),
            only_data=given.only_data,
            total_results=False,
            q="",
            finder="",
            order_by=f"{child.key}:asc",
        )
        rows = self._rows(child, inner, _equals(resource.key, key), 26, 0)
        href = f"{self.base}/{resource.name}/{key}/child/{name}"
        self._dress(child, inner, rows, href)
        items = [record for _, record in rows[:25]]
        if self.version < 3:
            return items
        return {
            "items": items,
            "count": len(items),
            "hasMore": len(rows) > 25,
            "limit": 25,
            "offset": 0,
            "links": [{"rel": "self", "href": href, "name": name, "kind": "collection"}],
        }

    def _restamp(
        self, resource: Resource, given: _Parameters, rows: list[tuple[int, Record]]
    ) -> None:
        zulu = self.rest.settings.timestamp_format == "zulu"
        names = [name for name in given.fields if resource.attributes[name].type == "datetime"]
        for _, record in rows:
            for name in names:
                text = record.get(name)
                if not isinstance(text, str) or not text.endswith("+00:00"):
                    continue
                moment = text.removesuffix("+00:00")
                if zulu:
                    record[name] = f"{moment}Z"
                elif "." not in moment:
                    record[name] = f"{moment}.000+00:00"

    def _dress(
        self, resource: Resource, given: _Parameters, rows: list[tuple[int, Record]], href: str
    ) -> None:
        """Give the rows the links that ``onlyData`` spares."""
        if given.only_data:
            return
        for key, record in rows:
            links = _item_links(resource, key, f"{href}/{record.get(resource.item_key, key)}")
            if self.version >= 9:
                record["@context"] = {"key": str(key), "links": links}
            else:
                record["links"] = links

    # --- parameters ---------------------------------------------------------------------

    def _parameters(self, resource: Resource) -> _Parameters:
        pairs = dict(_query_pairs(self.request))
        fields, children = self._fields(resource, pairs.get("fields"), pairs.get("expand", ""))
        limit = _whole_number(pairs, "limit", 25, 1)
        return _Parameters(
            limit=min(limit, self.rest.settings.page_cap),
            offset=_whole_number(pairs, "offset", 0, 0),
            fields=fields,
            children=children,
            only_data=_flag(pairs, "onlyData"),
            total_results=_flag(pairs, "totalResults"),
            q=pairs.get("q", ""),
            finder=pairs.get("finder", ""),
            order_by=pairs.get("orderBy", ""),
        )

    def _fields(
        self, resource: Resource, fields: str | None, expand: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if not fields:
            wanted = (
                resource.children if expand == "all" else tuple(filter(None, expand.split(",")))
            )
            for child in wanted:
                if child not in resource.children:
                    raise RequestError(400, f"Child resource {child} does not exist.", f"/{child}")
            return tuple(resource.attributes), wanted
        names = tuple(dict.fromkeys(name.strip() for name in fields.split(",")))
        for name in names:
            if name not in resource.attributes:
                raise RequestError(
                    400,
                    f"URL request parameter fields cannot be used: attribute {name} "
                    f"does not exist in {resource.name}.",
                    f"/{name}",
                    "27024",
                )
        return names, ()

    def _query(self, resource: Resource, q: str) -> list[Node]:
        if not q.strip():
            return []
        naive_offset = self.rest.settings.naive_offset_minutes
        return [parse(q, resource.attributes, self.version, naive_offset)]

    def _visible_item(self, resource: Resource, number: str) -> int:
        value = int(number) if resource.key == resource.item_key and number.isdigit() else number
        key = self.rest.crm.find(resource, resource.item_key, value)
        hidden = self._access(resource)
        if hidden and not self.rest.crm.count(
            resource, _all_of([_equals(resource.key, key), *hidden])
        ):
            raise NotFoundError(f"no {resource.name} {number}")
        return key

    def _access(self, resource: Resource) -> list[Node]:
        """Limit the rows to those that the account may see at all."""
        visible = self.rest.settings.visible
        if not visible or resource.name != "opportunities":
            return []
        return [parse(visible, resource.attributes, 2)]

    def _scope(self, resource: Resource, given: _Parameters) -> list[Node]:
        """Limit the rows to the finder's record set, or to the default one."""
        if resource.name != "opportunities":
            if given.finder:
                raise RequestError(400, f"Finder {given.finder.partition(';')[0]} does not exist.")
            return []
        nodes = self._access(resource)
        variables: dict[str, str] = {}
        if given.finder:
            name, _, rest = given.finder.partition(";")
            if name != "MyOpportunitiesFinder":
                raise RequestError(400, f"Finder {name} does not exist.")
            variables = _finder_variables(rest)
        for variable, value in variables.items():
            match variable:
                case "RecordSet":
                    continue
                case "OptyStatusCode":
                    nodes.append(_equals("StatusCode", value))
                case "EffectiveBeginDate":
                    nodes.append(_compares("EffectiveDate", ">=", _day(value)))
                case "EffectiveEndDate":
                    nodes.append(_compares("EffectiveDate", "<=", _day(value)))
                case _:
                    raise RequestError(400, f"Finder variable {variable} does not exist.")
        default = "MYOPTIES" if given.finder else self.rest.settings.default_record_set
        match variables.get("RecordSet", default):
            case "ALLOPTIES":
                pass
            case "MYOPTIES":
                nodes.append(_equals("OwnerResourcePartyId", OWN_PARTY_ID))
                if "OptyStatusCode" not in variables:
                    nodes.append(_equals("StatusCode", "OPEN"))
            case _:  # a wrong record set is no error: it is just empty
                nodes.append(_equals("OptyId", -1))
        return nodes


# --- parameters -------------------------------------------------------------------------


def _query_pairs(request: Request) -> list[tuple[str, str]]:
    pairs = parse_qs(request.query_string, keep_blank_values=True)
    return [(name, values[-1]) for name, values in pairs.items()]


def _whole_number(pairs: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = pairs.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
        raise RequestError(400, f"URL request parameter {name} has the invalid value {text}.")
    return int(text)


def _flag(pairs: Mapping[str, str], name: str) -> bool:
    text = pairs.get(name, "false")
    if text not in ("true", "false"):
        raise RequestError(400, f"URL request parameter {name} has the invalid value {text}.")
    return text == "true"


def _order_by(resource: Resource, text: str) -> list[tuple[str, bool]]:
    order = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, direction = part.partition(":")
        if name not in resource.attributes:
            raise RequestError(
                400, f"orderBy: attribute {name} does not exist.", f"/{name}", "27024"
            )
        if direction not in ("", "asc", "desc"):
            raise RequestError(400, f"orderBy: {direction} is neither asc nor desc.", f"/{name}")
        order.append((name, direction != "desc"))
    return order


def _finder_variables(text: str) -> dict[str, str]:
    variables = {}
    for part in filter(None, (part.strip() for part in re.split("[,;]", text))):
        name, equals, value = part.partition("=")
        if not equals:
            raise RequestError(400, f"Finder variable {name} has no value.")
        variables[name] = value.strip().strip("'\"")
    return variables


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise RequestError(400, f"{text} is not a date.") from error


def _equals(attribute: str, value: int | str) -> Node:
    return _compares(attribute, "=", value)


def _compares(attribute: str, operator: str, value: int | str) -> Node:
    return Predicate(attribute, operator, f'"{attribute}" {operator} ?', (value,))


def _all_of(nodes: Sequence[Node]) -> Node | None:
    return Junction("and", tuple(nodes)) if nodes else None


# --- bodies -----------------------------------------------------------------------------


def _numbers_as_strings(
    resource: Resource, fields: Sequence[str], rows: list[tuple[int, Record]]
) -> None:
    names = [name for name in fields if resource.attributes[name].high_precision]
    for _, record in rows:
        for name in names:
            value = record.get(name)
            if isinstance(value, int | float):
                record[name] = str(value)


def _item_links(resource: Resource, key: int, href: str) -> list[dict[str, object]]:
    indicator = hashlib.sha256(f"{resource.name}{key}".encode()).hexdigest().upper() * 2
    links: list[dict[str, object]] = [
        {
            "rel": "self",
            "href": href,
            "name": resource.name,
            "kind": "item",
            "properties": {"changeIndicator": f"ACED0005737200136A6176{indicator}"},
        },
        {"rel": "canonical", "href": href, "name": resource.name, "kind": "item"},
    ]
    for name in ("CurrencyLOV", "SalesStageLOV", "StatusLOV", "WinLossReasonLOV", "PartnerLOV"):
        links.append(
            {"rel": "lov", "href": f"{href}/lov/{name}", "name": name, "kind": "collection"}
        )
    for name in resource.children:
        links.append(
            {"rel": "child", "href": f"{href}/child/{name}", "name": name, "kind": "collection"}
        )
    return links


def _json(status: int, body: object) -> Answer:
    return Answer(status, _ENCODER.encode(body), "application/json", {"Cache-Control": "no-store"})


def _reply(request: Request, body: object, kind: str, rows: int = 0) -> Answer:
    accepted = request.headers.get("accept", "*/*")
    own_type = f"application/vnd.oracle.adf.{kind}+json"
    if own_type in accepted or "*/*" in accepted:
        content_type = own_type
    elif "application/json" in accepted or "application/*" in accepted:
        content_type = "application/json"
    else:
        raise RequestError(406, f"None of the media types {accepted} is offered.")
    return Answer(200, _ENCODER.encode(body), content_type, rows=rows)


def _error(refusal: RequestError, request: Request, version: int) -> Answer:
    title = _TITLES[refusal.status]
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Oracle Fusion (sandbox)"'
        return Answer(401, b"401 Unauthorized", "text/plain", headers)
    accepted = request.headers.get("accept", "*/*")
    structured = ERROR_TYPE in accepted or "*/*" in accepted or "application/*" in accepted
    if version < 4 or not structured:
        return Answer(refusal.status, refusal.detail.encode(), "text/plain;charset=utf-8", headers)
    body = {
        "title": title,
        "status": str(refusal.status),
        "o:errorDetails": [
            {
                "detail": refusal.detail,
                "o:errorCode": refusal.code,
                "o:errorPath": refusal.path,
            }
        ],
    }
    return Answer(refusal.status, _ENCODER.encode(body), ERROR_TYPE, headers)


# --- headers ----------------------------------------------------------------------------


def _framework_version(request: Request) -> int:
    text = request.headers.get("rest-framework-version", "1")
    if not text.isdigit() or int(text) not in FRAMEWORK_VERSIONS:
        raise RequestError(400, f"REST-Framework-Version {text} is not supported.")
    return int(text)


def _origin(request: Request) -> str:
    return f"http://{request.headers.get('host', '127.0.0.1')}"


def _basic(request: Request) -> tuple[str, str]:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:  # not base64, or not UTF-8
        return "", ""
    return user, password


def _matches(given: tuple[str, str], expected: tuple[str, str]) -> bool:
    return all(
        secrets.compare_digest(one.encode(), other.encode())
        for one, other in zip(given, expected, strict=True)
    )
