"""The tokens of a PromQL expression, each with its place. What Prometheus 2.42 to 3 read alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "number", "duration", "string", "symbol", "end"]

_DIGITS = frozenset("0123456789")
_MOST_DIGITS, _MOST_SECONDS = 12, float(1 << 63) / 1e9
_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n\r]*)+")
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(?:[0-9]+(?:ms|[smhdwy]))+")
_IN_ORDER = re.compile(r"(?:[0-9]+y)?(?:[0-9]+w)?(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m(?!s))?(?:[0-9]+s)?(?:[0-9]+ms)?")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TAIL = re.compile(r"[A-Za-z0-9_.]+")
_STRING = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"|' + r"'(?:[^'\\\n]|\\[^\n])*'|`[^`]*`")
_SYMBOL = re.compile(r"==|!=|<=|>=|=~|!~|[-+*/%^<>=@(),{}\[\]:]")
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\'\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.S)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    start: int
    end: int


class PromqlError(ValueError):
    """Not PromQL: ``start`` and ``end`` are where in the expression, ``remedy`` what to do about it."""

    def __init__(self, message: str, start: int, end: int, remedy: str = "") -> None:
        super().__init__(message)
        self.start, self.end, self.remedy = start, max(end, start + 1), remedy


def tokenize(text: str) -> list[Token]:
    """Return the tokens of an expression without its comments, the last one ``end``; raise PromqlError."""
    tokens: list[Token] = []
    at, braces, brackets = 0, False, False
    while True:
        space = _SPACE.match(text, at)
        at = space.end() if space else at
        if at == len(text):
            tokens.append(Token("end", "", at, at))
            return tokens
        token = _token(text, at, braces=braces, brackets=brackets)
        tokens.append(token)
        at = token.end
        if token.kind == "symbol":
            braces = token.text == "{" or (braces and token.text != "}")
            brackets = token.text == "[" or (brackets and token.text != "]")


def _token(text: str, at: int, *, braces: bool, brackets: bool) -> Token:
    first = text[at]
    if first in "\"'`":
        if match := _STRING.match(text, at):
            return Token("string", match[0], at, match.end())
        end = text.find("\n", at) if first != "`" else -1
        raise PromqlError("a string is not closed", at, end if end >= 0 else len(text), f"close it with {first}")
    name = _LABEL if braces or brackets else _NAME
    if match := name.match(text, at):
        return Token("name", match[0], at, match.end())
    if first in _DIGITS or (first == "." and text[at + 1 : at + 2] in _DIGITS):
        duration, number = _DURATION.match(text, at), _NUMBER.match(text, at)
        if duration and not (number and number.end() > duration.end()):
            found = Token("duration", duration[0], at, duration.end())
        elif number:
            found = Token("number", number[0], at, number.end())
        else:
            raise PromqlError("not a number", at, at + 1)
        if (tail := _TAIL.match(text, found.end)) is not None:
            raise PromqlError(f"{text[at : tail.end()]} is neither a number nor a duration", at, tail.end())
        if found.kind == "duration" and not in_range(found.text):
            raise PromqlError("a duration out of range", at, found.end)
        if found.kind == "duration" and _IN_ORDER.fullmatch(found.text) is None:
            remedy = "each unit once, from y w d h m s to ms"
            raise PromqlError(f"{found.text} is not a duration", at, found.end, remedy)
        return found
    if match := _SYMBOL.match(text, at):
        return Token("symbol", match[0], at, match.end())
    raise PromqlError(f"unexpected character {first!r}", at, at + 1)


def seconds(duration: str) -> float:
    """The length of a duration in Prometheus' notation, such as 1h30m."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|[smhdwy])", duration))


def in_range(duration: str) -> bool:
    """Whether Go can hold a duration: 292 years."""
    longest = max((len(digits) for digits in re.findall(r"[0-9]+", duration)), default=0)
    return longest <= _MOST_DIGITS and seconds(duration) < _MOST_SECONDS


def unquote(token: Token) -> str:
    """What a string token says; raise PromqlError for an escape that Go does not know."""
    body = token.text[1:-1]
    if token.text[0] == "`":
        return body

    def said(match: re.Match[str]) -> str:
        plain, octal, *hexadecimal = match.groups()
        code = int(octal, 8) if octal else int(next(filter(None, hexadecimal), "-1"), 16)
        if plain and not (plain in "'\"" and plain != token.text[0]):
            return _PLAIN.get(plain, plain)
        if plain or code < 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000 or (octal and code > 0xFF):
            at = token.start + 1 + match.start()
            raise PromqlError(f"{match[0]} is no escape sequence of PromQL", at, at + len(match[0]), r"write \\ for \ ")
        return chr(code)

    return _ESCAPE.sub(said, body)
