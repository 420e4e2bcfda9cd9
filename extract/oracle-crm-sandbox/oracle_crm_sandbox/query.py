"""The ``q`` parameter: parse both of Oracle's grammars strictly, and convert them to SQL.

Framework version 1 has query by example (``A=1;B>'x' and <='y'``), later versions
row-match expressions (``A = 1 and (B > 'x' or C is null)``). Both give a tree of
:class:`Predicate`, :class:`Junction` and :class:`Negation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

from .schema import Attribute
from .schema import column as column_of

Value = str | int | float | None


class QueryError(ValueError):
    """A ``q`` that the CRM answers with 400; ``attribute`` names the wrong attribute, if any."""

    def __init__(self, detail: str, attribute: str = "") -> None:
        super().__init__(detail)
        self.attribute = attribute


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on one attribute; ``operator`` in lower case, ``!=`` as ``<>``."""

    attribute: str
    operator: str
    sql: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """Conditions joined by ``and`` or ``or``."""

    word: Literal["and", "or"]
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """A negated condition (unknown stays unknown)."""

    part: Node


Node = Predicate | Junction | Negation


def to_sql(node: Node) -> tuple[str, list[Value]]:
    """Convert the tree to an SQL condition and its parameters."""
    match node:
        case Predicate():
            return node.sql, list(node.values)
        case Negation(part):
            sql, values = to_sql(part)
            return f"not ({sql})", values
        case Junction(word, parts):
            pieces = [to_sql(part) for part in parts]
            values = [value for _, values in pieces for value in values]
            return _balanced(word, [f"({sql})" for sql, _ in pieces]), values


def _balanced(word: str, pieces: list[str]) -> str:
    """Join as a balanced tree: SQLite fails if a chain is nested 1,000 deep."""
    if len(pieces) == 1:
        return pieces[0]
    half = len(pieces) // 2
    return f"({_balanced(word, pieces[:half])}) {word} ({_balanced(word, pieces[half:])})"


def conjuncts(node: Node | None) -> list[Node]:
    """Return the conditions that must all be true."""
    match node:
        case None:
            return []
        case Junction("and", parts):
            return [inner for part in parts for inner in conjuncts(part)]
        case _:
            return [node]


# --- literals ---------------------------------------------------------------------------

_STAMP = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?\Z"
)


def normal_stamp(text: str, naive_offset: int = 0) -> str:
    """Convert a date or timestamp to UTC text that sorts by time, as in rows.

    ``naive_offset`` is the offset of a literal that has none, in minutes east of UTC.
    Raises ValueError.
    """
    if not _STAMP.match(text):
        raise ValueError(f"'{text}' is not a date or timestamp")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone(timedelta(minutes=naive_offset)))
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"'{text}' is out of range") from error
    if moment.microsecond % 1000:
        return moment.isoformat(timespec="microseconds")
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")


@dataclass(frozen=True, slots=True)
class _Literal:
    """A literal as written: its text and whether it was in quotes."""

    text: str
    quoted: bool


def _typed(literal: _Literal, attribute: Attribute, naive_offset: int) -> Value:
    text = literal.text
    if text == "":
        return None  # in Oracle, an empty string is null
    try:
        match attribute.type:
            case "string":
                return text
            case "integer" | "number":
                return _number(text)
            case "boolean":
                return {"true": 1, "y": 1, "false": 0, "n": 0}[text.lower()]
            case "datetime":
                return normal_stamp(text, naive_offset)
            case "date":
                return normal_stamp(text).removesuffix("T00:00:00+00:00")
            case _:
                raise ValueError(text)
    except (KeyError, ValueError) as error:
        raise QueryError(
            f"The value '{text}' does not fit attribute {attribute.name} of type {attribute.type}.",
            attribute.name,
        ) from error


def _number(text: str) -> int | float:
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if not re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d{1,2})?", text):
        raise ValueError(text)
    return float(text)


# --- both grammars ----------------------------------------------------------------------

_OPERATORS = {"=", "<>", "!=", "<", "<=", ">", ">="}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.:-]))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark><>|!=|<=|>=|[=<>(),;])
      | (?P<bare>[^\s;'"()=<>!,]+)
    )""",
    re.VERBOSE,
)
# SQLite fails on expressions 1,000 deep; nobody writes more than this.
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(q: str) -> list[_Token]:
    tokens, position = [], 0
    q = q.rstrip()
    while position < len(q):
        found = _TOKEN.match(q, position)
        if not found or not found.lastgroup:
            raise QueryError(f"Unexpected {q[position:].strip()[:20]!r} in the query.")
        text = found[found.lastgroup]
        if found.lastgroup == "string":
            text = text[1:-1].replace(text[0] * 2, text[0])
        tokens.append(_Token(found.lastgroup, text, found.start(found.lastgroup), found.end()))
        position = found.end()
    return tokens


class _Reader:
    """The common part of both grammars: a cursor over tokens, attributes and typed values."""

    def __init__(self, q: str, attributes: Mapping[str, Attribute], naive_offset: int) -> None:
        self._q = q
        self._tokens = _tokens(q)
        self._at = 0
        self._attributes = attributes
        self._naive_offset = naive_offset

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self, wanted: str) -> _Token:
        token = self._peek()
        if token is None:
            raise QueryError(f"The query ends where {wanted} was expected.")
        self._at += 1
        return token

    def _consume(self, *texts: str) -> str | None:
        """Consume the next token if it is one of these words or characters."""
        token = self._peek()
        if token and token.kind in ("word", "mark") and token.text.lower() in texts:
            self._at += 1
            return token.text.lower()
        return None

    def _expect(self, text: str) -> None:
        if not self._consume(text):
            token = self._peek()
            found = f"{token.text!r}" if token else "the end"
            raise QueryError(f"Expected {text!r} in the query, found {found}.")

    def _attribute(self) -> Attribute:
        token = self._next("an attribute")
        if token.kind != "word":
            raise QueryError(f"Expected an attribute in the query, found {token.text!r}.")
        attribute = self._attributes.get(token.text)
        if attribute is None:
            raise QueryError(f"Attribute {token.text} does not exist.", token.text)
        if not attribute.queryable:
            raise QueryError(f"Attribute {token.text} is not queryable.", token.text)
        return attribute

    def _operator(self) -> str | None:
        token = self._peek()
        if token and token.kind == "mark" and token.text in _OPERATORS:
            self._at += 1
            return "<>" if token.text == "!=" else token.text
        return None

    def _value(self, literal: _Literal, attribute: Attribute) -> Value:
        return _typed(literal, attribute, self._naive_offset)


class _RowMatch(_Reader):
    """Framework version 2 and later."""

    def read(self) -> Node:
        node = self._disjunction(0)
        if token := self._peek():
            hint = " (';' joins conditions under version 1 only)" if token.text == ";" else ""
            raise QueryError(f"Unexpected {token.text!r} in the query{hint}.")
        return node

    def _disjunction(self, depth: int) -> Node:
        parts = [self._conjunction(depth)]
        while self._consume("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else Junction("or", tuple(parts))

    def _conjunction(self, depth: int) -> Node:
        parts = [self._term(depth)]
        while self._consume("and"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Junction("and", tuple(parts))

    def _term(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise QueryError("The query is nested too deeply.")
        if self._consume("not"):
            return Negation(self._term(depth + 1))
        if self._consume("("):
            node = self._disjunction(depth + 1)
            self._expect(")")
            return node
        return self._predicate()

    def _predicate(self) -> Predicate:
        if upper := self._upper():
            attribute = self._attribute()
            self._expect(")")
        else:
            attribute = self._attribute()
        column = column_of(attribute.name)
        if upper:
            column = f"upper({column})"

        if operator := self._operator():
            value = self._literal(attribute)
            return Predicate(attribute.name, operator, f"{column} {operator} ?", (value,))
        if self._consume("is"):
            negated = "not " if self._consume("not") else ""
            self._expect("null")
            return Predicate(attribute.name, f"is {negated}null", f"{column} is {negated}null", ())
        negated = "not " if self._consume("not") else ""
        match self._consume("in", "between", "like"):
            case "in":
                values = self._list(attribute)
                marks = ", ".join("?" * len(values))
                sql = f"{column} {negated}in ({marks})"
                return Predicate(attribute.name, f"{negated}in", sql, values)
            case "between":
                low = self._literal(attribute)
                self._expect("and")
                high = self._literal(attribute)
                sql = f"{column} {negated}between ? and ?"
                return Predicate(attribute.name, f"{negated}between", sql, (low, high))
            case "like":
                if attribute.type != "string":
                    raise QueryError("like needs an attribute of type string.", attribute.name)
                sql = f"{column} {negated}like ?"
                pattern = self._literal(attribute)
                return Predicate(attribute.name, f"{negated}like", sql, (pattern,))
        raise QueryError(f"Expected an operator after {attribute.name}.", attribute.name)

    def _upper(self) -> bool:
        tokens = self._tokens[self._at : self._at + 2]
        if [token.text.lower() for token in tokens] == ["upper", "("]:
            self._at += 2
            return True
        return False

    def _list(self, attribute: Attribute) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._literal(attribute)]
        while self._consume(","):
            values.append(self._literal(attribute))
        self._expect(")")
        return tuple(values)

    def _literal(self, attribute: Attribute) -> Value:
        if self._upper():
            value = self._literal(attribute)
            self._expect(")")
            return value.upper() if isinstance(value, str) else value
        token = self._next("a value")
        if token.kind == "string":
            return self._value(_Literal(token.text, quoted=True), attribute)
        if token.kind == "number" or token.text.lower() in ("true", "false"):
            return self._value(_Literal(token.text, quoted=False), attribute)
        raise QueryError(f"Expected a quoted value or a number, found {token.text!r}.")


class _QueryByExample(_Reader):
    """Framework version 1: ``;`` between attributes, several conditions only on one."""

    def read(self) -> Node:
        parts = [self._condition()]
        while self._consume(";"):
            if self._peek() is None:
                break
            parts.append(self._condition())
        if token := self._peek():
            raise QueryError(f"Unexpected {token.text!r} in the query.")
        return parts[0] if len(parts) == 1 else Junction("and", tuple(parts))

    def _condition(self) -> Node:
        attribute = self._attribute()
        operator = self._operator()
        if operator is None:
            raise QueryError(f"Expected an operator after {attribute.name}.", attribute.name)
        alternatives: list[list[Node]] = [[self._comparison(attribute, operator)]]
        while word := self._consume("and", "or"):
            operator = self._operator() or operator
            comparison = self._comparison(attribute, operator)
            if word == "or":
                alternatives.append([comparison])
            else:
                alternatives[-1].append(comparison)
        parts = [
            group[0] if len(group) == 1 else Junction("and", tuple(group)) for group in alternatives
        ]
        return parts[0] if len(parts) == 1 else Junction("or", tuple(parts))

    def _comparison(self, attribute: Attribute, operator: str) -> Predicate:
        column = column_of(attribute.name)
        literal = self._literal(attribute)
        if not literal.quoted and literal.text.lower() == "null" and operator in ("=", "<>"):
            word = "is null" if operator == "=" else "is not null"
            return Predicate(attribute.name, word, f"{column} {word}", ())
        if attribute.type == "string" and operator == "=" and re.search("[*%]", literal.text):
            pattern = literal.text.replace("*", "%")
            return Predicate(attribute.name, "like", f"{column} like ?", (pattern,))
        value = self._value(literal, attribute)
        return Predicate(attribute.name, operator, f"{column} {operator} ?", (value,))

    def _literal(self, attribute: Attribute) -> _Literal:
        token = self._next("a value")
        if token.kind == "string":
            return _Literal(token.text, quoted=True)
        # An unquoted value ends before the next 'and', 'or' or ';', and may contain spaces.
        first = token
        while token.kind in ("word", "number", "bare"):
            following = self._peek()
            if (
                following is None
                or following.text == ";"
                or (following.kind == "word" and following.text.lower() in ("and", "or"))
            ):
                return _Literal(self._q[first.start : token.end], quoted=False)
            token = self._next("a value")
        raise QueryError(
            f"Unexpected {token.text!r} in the query: under framework version 1 'and' and 'or' "
            "join conditions on one attribute only.",
            attribute.name,
        )


def parse(q: str, attributes: Mapping[str, Attribute], version: int, naive_offset: int = 0) -> Node:
    """Parse ``q`` by the grammar of REST framework ``version``; raises :class:`QueryError`."""
    grammar = _QueryByExample if version == 1 else _RowMatch
    return grammar(q, attributes, naive_offset).read()
