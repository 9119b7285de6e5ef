"""A value → what stands for it in CSV and in JSON."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a JSON file as its digits stand there: no size or precision is lost."""

    digits: str


JSON = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)


def json_text(value: Any) -> str:
    """Write a value as JSON, non-ASCII characters as they are.

    What JSON has no form for becomes a string: dates and times in ISO 8601, decimals in digits, bytes in base64, NaN
    and infinity by name.
    """
    if isinstance(value, Number):
        return value.digits
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json_text(str(key))}: {json_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return json.dumps(_plain(value), ensure_ascii=False)


def csv_cell(value: Any, delimiter: str = ",") -> str:
    """Write a value as a cell: a string as it is, None as nothing, all else as JSON.

    An empty string is written as `""`, so that it differs from None. A cell of TSV is never quoted.
    """
    if value is None:
        return ""
    plain = _plain(value)
    text = plain if isinstance(plain, str) else json_text(plain)
    if delimiter == "\t":
        return text
    quoted = not text or any(mark in text for mark in ',"\r\n') or text[0].isspace() or text[-1].isspace()
    return '"' + text.replace('"', '""') + '"' if quoted else text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float | list | tuple | Mapping | Number):
        return value
    return str(value)
