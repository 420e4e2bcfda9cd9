"""One request to a collection, an item, a child collection or ``describe``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .crm import Crm, NotFoundError, Record
from .generator import OWN_PARTY_ID
from .parameters import Parameters, day, finder_variables, read_parameters
from .poison import Failure
from .protocol import Answer, PageShape, Request, RequestError, Settings, query_pairs, reply
from .query import Junction, Node, Predicate, parse
from .schema import OPTY_STATUSES, Resource, column


@dataclass(frozen=True, slots=True)
class Call:
    """One authorized request to a resource."""

    crm: Crm
    settings: Settings
    request: Request
    version: int
    shape: PageShape
    base: str

    # --- answers ------------------------------------------------------------------------

    def collection(self, resource: Resource) -> Answer:
        """Answer with a page of the collection."""
        given = self._parameters(resource)
        where = _all_of([*self._scope(resource, given), *self._query(resource, given.q)])
        return self._page(resource, given, where, f"{self.base}/{resource.name}")

    def child(self, number: str, name: str) -> Answer:
        """Answer with a page of an opportunity's child rows."""
        parent = self.crm.resource("opportunities")
        if name not in parent.children:
            raise RequestError(404, f"Unknown child resource {name}.")
        key = self._visible_item(parent, number)
        self.crm.make_children([key])
        child = self.crm.resource(name)
        given = self._parameters(child)
        where = _all_of([_equals(parent.key, key), *self._query(child, given.q)])
        return self._page(child, given, where, f"{self.base}/opportunities/{number}/child/{name}")

    def statuses(self) -> Answer:
        """Answer with the list of status codes."""
        settings, resource = self.settings, OPTY_STATUSES.copy()
        if not settings.status_categories:
            del resource.attributes["LookupCategory"]
        given = read_parameters(self.request, resource, {}, settings.page_cap)
        if given.q:
            raise RequestError(400, "URL request parameter q cannot be used.")
        name, _, rest = given.finder.partition(";")
        variables = finder_variables(rest)
        if name not in ("", "StatusByBUIdFinder"):
            raise RequestError(400, f"Finder {name} does not exist.")
        unit = variables.get("BindBUId", "")
        if name and not (unit.isdigit() and variables.get("BindLookupType") == "OPTY_STATUS"):
            raise RequestError(400, "StatusByBUIdFinder needs BindLookupType and BindBUId.")
        if not name and settings.statuses_by_business_unit:
            raise RequestError(400, "optyStatusesLOV needs the finder StatusByBUIdFinder.")
        items = [
            {attribute: getattr(status, attribute) for attribute in given.fields}
            for status in settings.statuses
            if not name or status.business_unit in (None, int(unit))
        ]
        page = items[given.offset : given.offset + given.limit]
        body = {
            "items": page,
            "count": len(page),
            "hasMore": len(items) > given.offset + len(page),
            "limit": given.limit,
            "offset": given.offset,
        }
        return reply(self.request, body, "resourcecollection", rows=len(page))

    def item(self, resource: Resource, number: str) -> Answer:
        """Answer with the row of an item key."""
        key = self._visible_item(resource, number)
        given = self._parameters(resource)
        rows = self._rows(resource, given, _equals(resource.key, key), 1, 0)
        _fail_for(rows)
        self._add_links(resource, given, rows, f"{self.base}/{resource.name}")
        return reply(self.request, rows[0][1], "resourceitem", rows=1)

    def describe(self, resource: Resource) -> Answer:
        """Answer with the attributes of the resource."""
        if "metadataMode" in query_pairs(self.request):  # only the catalog accepts it
            detail = "URL request parameter metadataMode cannot be used in this context."
            raise RequestError(400, detail, "/metadataMode", "27500")
        href = f"{self.base}/{resource.name}"
        body: dict[str, object] = {
            "title": resource.name.title(),
            "attributes": [attribute.describe() for attribute in resource.attributes.values()],
            "collection": {
                "rangeSize": 25,
                "finders": [{"name": "PrimaryKey", "attributes": [{"name": resource.key}]}],
                "links": [{"rel": "self", "href": href, "name": "self"}],
                "actions": [{"name": "get", "method": "GET", "responseType": ["application/json"]}],
            },
            "item": {"links": [{"rel": "self", "href": f"{href}/{{id}}", "name": "self"}]},
            "children": {
                name: {
                    "attributes": [
                        attribute.describe()
                        for attribute in self.crm.resource(name).attributes.values()
                    ]
                }
                for name in resource.children
            },
            "links": [{"rel": "self", "href": f"{href}/describe", "name": "self"}],
        }
        if self.settings.describe_is_silent:
            del body["attributes"]
        return reply(self.request, {"Resources": {resource.name: body}}, "description")

    # --- a page -------------------------------------------------------------------------

    def _page(self, resource: Resource, given: Parameters, where: Node | None, href: str) -> Answer:
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
        _fail_for(rows)
        self._add_links(resource, given, rows, href)
        body: dict[str, object] = {"items": [record for _, record in rows]}
        if not rows and self.settings.omit_empty_items:
            del body["items"]
        if given.total_results:
            total = self.crm.count(resource, where)
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
        return reply(self.request, body, "resourcecollection", rows=len(rows))

    def _rows(
        self, resource: Resource, given: Parameters, where: Node | None, limit: int, offset: int
    ) -> list[tuple[int, Record]]:
        rows = self.crm.page(resource, given.fields, where, given.order, limit, offset)
        if self.settings.timestamp_format != "seconds":
            self._format_timestamps(resource, given, rows)
        if self.version < 8:
            _lists_as_strings(resource, given.fields, rows)
        if self.version >= 9:
            _numbers_as_strings(resource, given.fields, rows)
        for name, fields in given.children.items():
            self._expand(resource, rows, self.crm.resource(name), fields, given.only_data)
        return rows

    def _expand(
        self,
        resource: Resource,
        rows: list[tuple[int, Record]],
        child: Resource,
        fields: tuple[str, ...],
        only_data: bool,
    ) -> None:
        """Add the first 25 child rows to each row: as a list, or as a collection from version 3."""
        keys = [key for key, _ in rows]
        self.crm.make_children(keys)
        marks = ", ".join("?" * len(keys))
        where = Predicate(resource.key, "in", f'"{resource.key}" in ({marks})', tuple(keys))
        parents = self._parents(child, resource.key, where)
        wanted = Parameters(
            fields=fields,
            children={},
            order=((child.key, True),),
            limit=-1,
            offset=0,
            only_data=only_data,
            total_results=False,
            q="",
            finder="",
        )
        children: dict[int, list[tuple[int, Record]]] = {key: [] for key in keys}
        for child_key, record in self._rows(child, wanted, where, -1, 0):
            children[parents[child_key]].append((child_key, record))
        for key, record in rows:
            href = f"{self.base}/{resource.name}/{key}/child/{child.name}"
            shown = children[key][:25]
            self._add_links(child, wanted, shown, href)
            items = [item for _, item in shown]
            record[child.name] = items
            if self.version >= 3:
                record[child.name] = {
                    "items": items,
                    "count": len(items),
                    "hasMore": len(children[key]) > len(items),
                    "limit": 25,
                    "offset": 0,
                    "links": [
                        {"rel": "self", "href": href, "name": child.name, "kind": "collection"}
                    ],
                }

    def _parents(self, child: Resource, parent_key: str, where: Node) -> dict[int, int]:
        """Map the keys of child rows to their parents' keys."""
        rows = self.crm.page(child, (parent_key,), where, ((child.key, True),))
        return {key: int(str(record[parent_key])) for key, record in rows}

    def _format_timestamps(
        self, resource: Resource, given: Parameters, rows: list[tuple[int, Record]]
    ) -> None:
        zulu = self.settings.timestamp_format == "zulu"
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

    def _add_links(
        self, resource: Resource, given: Parameters, rows: list[tuple[int, Record]], href: str
    ) -> None:
        """Add the links to the rows, which ``onlyData`` leaves out."""
        if given.only_data:
            return
        for key, record in rows:
            links = _item_links(resource, key, f"{href}/{record.get(resource.item_key, key)}")
            if self.version >= 9:
                record["@context"] = {"key": str(key), "links": links}
            else:
                record["links"] = links

    # --- which rows ---------------------------------------------------------------------

    def _parameters(self, resource: Resource) -> Parameters:
        children = {name: self.crm.resource(name) for name in resource.children}
        return read_parameters(self.request, resource, children, self.settings.page_cap)

    def _query(self, resource: Resource, q: str) -> list[Node]:
        if not q.strip():
            return []
        naive_offset = self.settings.naive_offset_minutes
        return [parse(q, resource.attributes, self.version, naive_offset)]

    def _visible_item(self, resource: Resource, number: str) -> int:
        value = int(number) if resource.key == resource.item_key and number.isdigit() else number
        key = self.crm.find(resource, resource.item_key, value)
        hidden = self._access(resource)
        if hidden and not self.crm.count(resource, _all_of([_equals(resource.key, key), *hidden])):
            raise NotFoundError(f"no {resource.name} {number}")
        return key

    def _access(self, resource: Resource) -> list[Node]:
        """Limit the rows to those that the account may see."""
        visible = self.settings.visible
        if not visible or resource.name != "opportunities":
            return []
        return [parse(visible, resource.attributes, 2)]

    def _scope(self, resource: Resource, given: Parameters) -> list[Node]:
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
            variables = finder_variables(rest)
        for variable, value in variables.items():
            match variable:
                case "RecordSet":
                    continue
                case "OptyStatusCode":
                    nodes.append(_equals("StatusCode", value))
                case "LookupCategory":
                    codes = [
                        _equals("StatusCode", status.LookupCode)
                        for status in self.settings.statuses
                        if status.LookupCategory == value
                    ]
                    nodes.append(Junction("or", (*codes, _equals("OptyId", -1))))
                case "EffectiveBeginDate":
                    nodes.append(_compares("EffectiveDate", ">=", day(value)))
                case "EffectiveEndDate":
                    nodes.append(_compares("EffectiveDate", "<=", day(value)))
                case _:
                    raise RequestError(400, f"Finder variable {variable} does not exist.")
        default = "MYOPTIES" if given.finder else self.settings.default_record_set
        match variables.get("RecordSet", default):
            case "ALLOPTIES":
                pass
            case "MYOPTIES":
                nodes.append(_equals("OwnerResourcePartyId", OWN_PARTY_ID))
                if "OptyStatusCode" not in variables:
                    nodes.append(_equals("StatusCode", "OPEN"))
            case _:  # a wrong record set is not an error: it is empty
                nodes.append(_equals("OptyId", -1))
        return nodes


# --- conditions -------------------------------------------------------------------------


def _equals(attribute: str, value: int | str) -> Node:
    return _compares(attribute, "=", value)


def _compares(attribute: str, operator: str, value: int | str) -> Node:
    return Predicate(attribute, operator, f"{column(attribute)} {operator} ?", (value,))


def _all_of(nodes: Sequence[Node]) -> Node | None:
    return Junction("and", tuple(nodes)) if nodes else None


# --- rows ---------------------------------------------------------------------------------


def _lists_as_strings(
    resource: Resource, fields: Sequence[str], rows: list[tuple[int, Record]]
) -> None:
    names = [name for name in fields if resource.attributes[name].type == "array"]
    for _, record in rows:
        for name in names:
            value = record.get(name)
            if isinstance(value, list):
                record[name] = ",".join(map(str, value))


def _numbers_as_strings(
    resource: Resource, fields: Sequence[str], rows: list[tuple[int, Record]]
) -> None:
    names = [name for name in fields if resource.attributes[name].high_precision]
    for _, record in rows:
        for name in names:
            value = record.get(name)
            if isinstance(value, int | float):
                record[name] = str(value)


def _fail_for(rows: list[tuple[int, Record]]) -> None:
    """Raise :class:`RequestError` if one of these values cannot be calculated."""
    for _, record in rows:
        for value in record.values():
            if isinstance(value, Failure):
                raise RequestError(value.status, value.detail, code=value.code)


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
