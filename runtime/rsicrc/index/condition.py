"""Conditions on the columns of an index: a parser for the accepted part of SQL.

LanceDB stops reading a condition after the first complete expression and ignores the rest. The parser here reads the
whole text or names the place of the first mistake, and writes the condition again for LanceDB with quoted columns and
explicit parentheses.

Grammar, with keywords in any case:

    condition  = and_term {OR and_term}
    and_term   = not_term {AND not_term}
    not_term   = {NOT} predicate
    predicate  = sum [comparison sum | [NOT] (IN "(" sum {"," sum} ")" | BETWEEN sum AND sum | (LIKE | ILIKE) sum)
                 | IS [NOT] (NULL | TRUE | FALSE)]
    sum        = product {("+" | "-" | "||") product}
    product    = factor {("*" | "/" | "%") factor}
    factor     = {"-" | "+"} primary ["::" type]
    primary    = number | 'text' | TRUE | FALSE | NULL | DATE 'text' | TIMESTAMP 'text' | column
                 | function "(" [condition {"," condition}] ")" | CAST "(" condition AS type ")" | "(" condition ")"
    column     = name | "name" | `name`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from rsicrc.untrusted.fields import shown

# A name or number directly after a number (`1_000`, `0x1F`) is a mistake, so it belongs to the token.
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<comment>--|/\*|\*/|\#)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")+"|`(?:[^`]|``)+`)'
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign><=|>=|<>|!=|==|\|\||::|[-+*/%(),=<>])"
)
_RESERVED = frozenset("and or not in between like ilike is null true false".split())  # noqa: SIM905
_COMPARISONS = {"=": "=", "==": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
# Functions of LanceDB with a result of a bounded size. Others, such as `repeat`, can exhaust the memory.
_FUNCTIONS = frozenset(
    "abs ceil char_length coalesce contains date_part ends_with floor length lower ltrim regexp_like regexp_match "  # noqa: SIM905
    "round rtrim starts_with trim upper".split()
)
_TYPES = frozenset("bigint boolean date double float int integer string timestamp".split())  # noqa: SIM905
_MOST_CHARACTERS = 1_000_000
# LanceDB overflows the stack at some hundred nested expressions, and refuses 49 nested parentheses.
_MOST_LEVELS = 16
_MOST_TERMS = 1000
_SHOWN = 20


class ConditionError(ValueError):
    """A text is not a condition; the message names the place of the mistake."""


class _Token(NamedTuple):
    """A token of a condition; `kind` is a group of `_TOKEN`, or "end"."""

    kind: str
    text: str
    start: int

    def is_word(self, *words: str) -> bool:
        """Return True if the token is one of these lower-case keywords."""
        return self.kind == "name" and self.text.lower() in words

    def is_sign(self, *signs: str) -> bool:
        """Return True if the token is one of these signs."""
        return self.kind == "sign" and self.text in signs


def normalize_condition(where: str, columns: Sequence[str]) -> str:
    """Return a condition with the same meaning in which columns are quoted and expressions are in parentheses.

    Args:
        where: The condition.
        columns: Names of the columns. A name that is not quoted may differ in case if only one column fits.

    Raises:
        ConditionError: The text is not exactly one condition on these columns.
    """
    if len(where) > _MOST_CHARACTERS:
        raise ConditionError(f"more than {_MOST_CHARACTERS:,} characters")
    return _Parser(where, columns).parse()


def _tokens(where: str) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(where):
        found = _TOKEN.match(where, position)
        if found is None or found.lastgroup is None:
            raise ConditionError(_at(where, position, _unreadable(where[position])))
        if found.lastgroup == "comment":
            raise ConditionError(_at(where, position, f"comments ({shown(found.group())}) are not accepted"))
        if found.lastgroup != "space":
            tokens.append(_Token(found.lastgroup, found.group(), position))
        position = found.end()
    return [*tokens, _Token("end", "", len(where))]


def _unreadable(character: str) -> str:
    if character in "'\"`":
        return f"the quote {character} is not closed"
    if character.isdigit() or character == ".":
        return "not a number"
    return "unexpected ';'" if character == ";" else f"unexpected {character!r}"


def _at(where: str, position: int, problem: str, hint: str = "") -> str:
    before = where[max(0, position - _SHOWN) : position]
    place = f"at character {position + 1}" if position < len(where) else "at the end"
    after = f", after {'…' if position > _SHOWN else ''}{before!r}" if before.strip() else ""
    return f"{problem} {place}{after}{'; ' if hint else ''}{hint}"


class _Parser:
    """Recursive-descent parser; each method reads one rule of the grammar and returns the SQL to pass on."""

    def __init__(self, where: str, columns: Sequence[str]) -> None:
        self._where = where
        self._columns = columns
        self._tokens = _tokens(where)
        self._next = 0
        self._level = 0
        self._terms = 0

    def parse(self) -> str:
        if self._token.kind == "end":
            raise ConditionError("the condition is empty")
        sql = self._condition()
        if self._token.kind != "end":
            self._fail(f"unexpected {self._shown()}", "join conditions by AND or OR")
        return sql

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _take_word(self, *words: str) -> bool:
        found = self._token.is_word(*words)
        self._next += found
        return found

    def _take_sign(self, *signs: str) -> bool:
        found = self._token.is_sign(*signs)
        self._next += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take_sign(sign):
            self._fail(f"expected '{sign}', not {self._shown()}")

    def _shown(self) -> str:
        return "the end" if self._token.kind == "end" else repr(self._token.text[:_SHOWN])

    def _fail(self, problem: str, hint: str = "", *, token: _Token | None = None) -> NoReturn:
        raise ConditionError(_at(self._where, (token or self._token).start, problem, hint))

    def _deeper(self, rule: Callable[[], str]) -> str:
        self._level += 1
        if self._level > _MOST_LEVELS:
            self._fail(f"more than {_MOST_LEVELS} nested expressions")
        sql = rule()
        self._level -= 1
        return sql

    def _condition(self) -> str:
        terms = [self._conjunction()]
        while self._take_word("or"):
            terms.append(self._conjunction())
        return f"({' OR '.join(terms)})" if len(terms) > 1 else terms[0]

    def _conjunction(self) -> str:
        terms = [self._negation()]
        while self._take_word("and"):
            terms.append(self._negation())
        return f"({' AND '.join(terms)})" if len(terms) > 1 else terms[0]

    def _negation(self) -> str:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            self._fail(f"more than {_MOST_TERMS:,} conditions", "use IN for a list of values")
        if self._take_word("not"):
            return f"(NOT {self._deeper(self._negation)})"
        return self._predicate()

    def _predicate(self) -> str:
        left = self._sum()
        if self._token.kind == "sign" and self._token.text in _COMPARISONS:
            return f"({left} {_COMPARISONS[self._take().text]} {self._sum()})"
        if self._take_word("is"):
            negated = " NOT" if self._take_word("not") else ""
            if not self._token.is_word("null", "true", "false"):
                self._fail(f"expected NULL, TRUE or FALSE, not {self._shown()}")
            return f"({left} IS{negated} {self._take().text.upper()})"
        negated = "NOT " if self._take_word("not") else ""
        if self._take_word("in"):
            self._expect("(")
            values = [self._sum()]
            while self._take_sign(","):
                values.append(self._sum())
            self._expect(")")
            return f"({left} {negated}IN ({', '.join(values)}))"
        if self._take_word("between"):
            low = self._sum()
            if not self._take_word("and"):
                self._fail(f"expected AND of BETWEEN, not {self._shown()}")
            return f"({left} {negated}BETWEEN {low} AND {self._sum()})"
        if self._token.is_word("like", "ilike"):
            return f"({left} {negated}{self._take().text.upper()} {self._sum()})"
        if negated:
            self._fail(f"expected IN, BETWEEN or LIKE after NOT, not {self._shown()}")
        return left

    def _sum(self) -> str:
        return self._chain(self._product, "+", "-", "||")

    def _product(self) -> str:
        return self._chain(self._factor, "*", "/", "%")

    def _chain(self, operand: Callable[[], str], *signs: str) -> str:
        level = self._level
        sql = operand()
        while self._token.is_sign(*signs):
            self._level += 1  # the expression on the left is one level deeper
            sql = f"({sql} {self._take().text} {self._deeper(operand)})"
        self._level = level
        return sql

    def _factor(self) -> str:
        if self._take_sign("-"):
            operand = self._deeper(self._factor)
            return f"-{operand}" if operand[0].isdigit() or operand[0] == "." else f"(- ({operand}))"
        if self._take_sign("+"):
            return self._deeper(self._factor)
        sql = self._primary()
        return f"CAST({sql} AS {self._type()})" if self._take_sign("::") else sql

    def _primary(self) -> str:
        token = self._token
        if token.kind == "number":
            if token.text.isdigit() and int(token.text[:20]) >= 2**63:
                self._fail("a whole number of more than 64 bits")
            return self._take().text
        if token.kind == "text":
            return self._take().text
        if self._take_sign("("):
            sql = self._deeper(self._condition)
            self._expect(")")
            return sql
        if token.kind == "quoted":
            self._take()
            quote = token.text[0]
            return self._column(token, token.text[1:-1].replace(2 * quote, quote), exact=True)
        if token.kind != "name":
            self._fail(f"expected a column or a value, not {self._shown()}")
        return self._word()

    def _word(self) -> str:
        """Read a value, a function or a column that begins with a name."""
        token = self._token
        if token.is_word("null", "true", "false"):
            return self._take().text.upper()
        if token.is_word(*_RESERVED):
            self._fail(f"expected a column or a value, not {self._shown()}")
        self._take()
        if token.is_word("date", "timestamp") and self._token.kind == "text":
            return f"{token.text.upper()} {self._take().text}"
        if self._token.is_sign("("):
            return self._function(token)
        return self._column(token, token.text, exact=False)

    def _function(self, token: _Token) -> str:
        name = token.text.lower()
        if name != "cast" and name not in _FUNCTIONS:
            names = ", ".join(sorted(_FUNCTIONS))
            self._fail(f"no function '{token.text[:_SHOWN]}'", f"there is {names}", token=token)
        self._expect("(")
        if name == "cast":
            value = self._deeper(self._condition)
            if not self._take_word("as"):
                self._fail(f"expected AS of CAST, not {self._shown()}")
            sql = f"CAST({value} AS {self._type()})"
        else:
            values = [] if self._token.is_sign(")") else [self._deeper(self._condition)]
            while self._take_sign(","):
                values.append(self._deeper(self._condition))
            sql = f"{name}({', '.join(values)})"
        self._expect(")")
        return sql

    def _type(self) -> str:
        if not self._token.is_word(*_TYPES):
            self._fail(f"expected a type ({', '.join(sorted(_TYPES))}), not {self._shown()}")
        return self._take().text.lower()

    def _column(self, token: _Token, name: str, *, exact: bool) -> str:
        found = [name] if name in self._columns else []
        if not found and not exact:
            found = [each for each in self._columns if each.lower() == name.lower()]
        if len(found) > 1:
            self._fail(f"{shown(name)} fits {' and '.join(found)}", "put the column into backticks", token=token)
        if not found:
            hint = "put text into single quotes" if token.text[0] == '"' else ""
            self._fail(f"no column {shown(name)}", hint, token=token)
        return f"`{found[0]}`"
