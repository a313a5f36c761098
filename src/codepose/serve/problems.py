"""What is wrong with a request, in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException

from codepose.settings.errors import ConfigError


class Problem(HTTPException):
    """An answer other than success: a status, and one line that says what to do."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, " ".join(text.split()), headers)


def as_problem(error: ConfigError) -> Problem:
    """An error of the command line's options as that of a request's fields: without their dashes."""
    return Problem(422, re.sub(r"(?<!\S)--([a-zA-Z])", r"\1", str(error)))


def first_of(errors: Sequence[Any]) -> str:
    """The first of pydantic's complaints as a line: the field, and what is wrong with it."""
    one = errors[0]
    field = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
    if one["type"] == "missing":
        return f"{field} is missing"
    return f"{field}: {one['msg'][:1].lower()}{one['msg'][1:]}"
