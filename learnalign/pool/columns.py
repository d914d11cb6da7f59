r"""Finds which column of a pool is the problem, the answer, the id, the source, and turns a cell into text.

Columns are found by name, the first of a list that the pool has; a dotted name such as
`reward_model.ground_truth` reaches into nested objects (a column that is itself called so wins). What the
trainer feeds comes first: `prompt` before `problem`, and `reward_model.ground_truth`, which verl's reward
functions read, before `answer`; worked solutions come last. This module knows neither files nor rows: an
unfit cell is a `ValueError` that says what was expected and found, and the caller says where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from learnalign.config import PoolConfig
from learnalign.errors import PoolError

PROBLEM = ("prompt", "problem", "question", "messages", "responses_create_params.input")
ANSWER = (
    "reward_model.ground_truth",
    "reward_model.ground_truth.target",
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "golden_answers",
    "solution",
)
ID = ("id", "prompt_id", "uid", "unique_id", "extra_info.index", "index")
SOURCE = ("data_source", "source")
SPLIT = ("extra_info.split", "split")
IMAGES = ("images", "image")
TOOLS = (("tools",), ("responses_create_params", "tools"))
KINDS = {
    type(None): "nothing",
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
}
SHOWN = 40
"""Column names listed in an error."""

ColumnPath = tuple[str, ...]

# GSM8K ends a worked solution with a line "#### 72"; its own reading removes the commas of "1,450,000".
GSM8K_FINAL = "\n####"
COMMA_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character, so that \{ is passed over, or a brace


@dataclass(frozen=True)
class Columns:
    """The paths of the columns that were found; `id`, `source` and `split` may be absent (empty)."""

    problem: ColumnPath
    answer: ColumnPath
    id: ColumnPath
    source: ColumnPath
    split: ColumnPath
    id_found: bool
    """The id column was found by name, not given."""
    images: ColumnPath = ()
    tools: ColumnPath = ()

    def read(self, schema: pa.Schema) -> list[str]:
        """The columns that a columnar file has to read, of structs the fields alone."""
        paths = (self.problem, self.answer, self.id, self.source, self.split, self.images, self.tools)
        whole = {field.name for field in schema if not pa.types.is_struct(field.type)}
        return list(dict.fromkeys(path[0] if path[0] in whole else ".".join(path) for path in paths if path))

    def names(self) -> dict[str, str]:
        """Role to dotted name, for the roles that were found."""
        roles = {"problem": self.problem, "answer": self.answer, "id": self.id, "source": self.source}
        return {role: ".".join(path) for role, path in roles.items() if path}


def columns_of_records(records: Iterable[dict[str, Any]]) -> dict[str, ColumnPath]:
    """Dotted name to path of every value that is not itself an object, in order of appearance."""
    seen: dict[str, ColumnPath] = {}

    def visit(value: dict[str, Any], above: ColumnPath) -> None:
        for key, inner in value.items():
            if isinstance(inner, dict):
                visit(inner, (*above, key))
            else:
                _add(seen, (*above, key))

    for record in records:
        visit(record, ())
    return seen


def columns_of_schema(schema: pa.Schema) -> dict[str, ColumnPath]:
    """Dotted name to path of every field that is not itself a struct."""
    seen: dict[str, ColumnPath] = {}

    def visit(field: pa.Field, above: ColumnPath) -> None:
        path = (*above, field.name)
        if pa.types.is_struct(field.type):
            for inner in field.type.fields:
                visit(inner, path)
        else:
            _add(seen, path)

    for field in schema:
        visit(field, ())
    return seen


def find_columns(seen: dict[str, ColumnPath], config: PoolConfig, where: str, answers: bool = True) -> Columns:
    """Choose the columns, those given in `config` first. Raises `PoolError` that lists the columns seen.

    answers: there has to be a column of answers.
    """
    return Columns(
        problem=_find(seen, "problem", config.problem_column, PROBLEM, where, required=True),
        answer=_find(seen, "answer", config.answer_column, ANSWER, where, required=answers),
        id=_find(seen, "id", config.id_column, ID, where),
        source=_find(seen, "source", config.source_column, SOURCE, where),
        split=_find(seen, "split", "", SPLIT, where),
        id_found=not config.id_column,
        tools=next((tools for path in seen.values() for tools in TOOLS if path[: len(tools)] == tools), ()),
        images=next(((path[0],) for name, path in seen.items() if name.split(".")[0] in IMAGES), ()),
    )


def value_at(record: dict[str, Any], path: ColumnPath) -> Any:
    """The value at `path`, None where any part of it is missing."""
    value: Any = record
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def required_at(record: dict[str, Any], path: ColumnPath) -> Any:
    """The value at `path`, which may be null. Raises `ValueError` where the record has no such key."""
    above = value_at(record, path[:-1])
    if isinstance(above, dict) and path[-1] not in above:
        raise ValueError("is missing")
    return value_at(record, path)


def problem_text(value: Any) -> tuple[str, str | None]:
    """(the text a person would read, chat messages as JSON or None) of a problem cell. Raises `ValueError`.

    Messages are kept whole, but for nulls, with their text as one; the text is the last user message.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("has no text")
        return value, None
    if not isinstance(value, list):
        raise ValueError(f"must be text or a list of chat messages, found {kind_of(value)}")
    if not value:
        raise ValueError("is an empty list of chat messages")
    messages = [_message(message) for message in value]
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if not asked or not asked[-1].strip():
        raise ValueError("has no user message with text")
    if messages[-1]["role"] == "assistant":
        raise ValueError("ends with an assistant message; a prompt ends where the policy has to answer")
    return asked[-1], json.dumps(messages, ensure_ascii=False, default=str)


def answer_text(value: Any, worked: bool) -> str:
    r"""The reference answer as text, "" where there is none. Raises `ValueError` for what is no text or number.

    Whole numbers have no decimal point, whatever type holds them (72.0 is "72": data frames turn integer columns
    with a gap into floats), other numbers are written as Python writes them, truth values are "True" and "False". A
    list with one entry is that entry, a longer one a JSON list of accepted answers. Of a text whose last line is
    "#### 72" the answer is "72" (GSM8K), and in a `worked` solution it is what the last \boxed{...} holds, where
    there is one.
    """
    if isinstance(value, list):
        if len(value) > 1:
            return json.dumps([scalar_text(one).strip() for one in value], ensure_ascii=False)
        value = value[0] if value else None
    text = scalar_text(value).strip()
    _, found, last = ("\n" + text).rpartition(GSM8K_FINAL)
    if found and "\n" not in last:
        number = last.strip()
        text = number.replace(",", "") if COMMA_NUMBER.fullmatch(number) else number
    elif worked:
        text = last_boxed(text) or text
    return text


def tools_text(value: Any) -> str | None:
    """The tools of a prompt as a JSON list of objects, None where there are none. Raises `ValueError` for other values.

    As objects or as JSON text of them. Nulls in objects are left out: Parquet fills up what only other tools have.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise ValueError(f"holds text that is no JSON: {value!r:.40}") from None
    if not value:
        return None
    tools = [json.loads(one) if isinstance(one, str) and one[:1] == "{" else one for one in _listed(value)]
    if not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"holds {tools[0]!r:.40}, which is no JSON schema of a tool")
    return json.dumps([_without_nulls(tool) for tool in tools], ensure_ascii=False, default=str)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def scalar_text(value: Any) -> str:
    """Text for a string, number or truth value, "" for None and NaN. Raises `ValueError` for the rest."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= 2**53 else repr(value)
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole else format(value, "f")
    raise ValueError(f"must be text or a number, found {kind_of(value)}")


def id_text(value: Any) -> str:
    """The id of a prompt as text. Raises `ValueError` for an empty or missing one."""
    text = scalar_text(value)
    if not text:
        raise ValueError("is missing")
    return text


def source_text(value: Any) -> str:
    """The source of a prompt as text, "" where there is none; anything nested as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def last_boxed(text: str) -> str:
    r"""What the last \boxed{...} of a text holds, braces balanced; "" where there is none that is closed."""
    starts = [match.end() for match in BOXED.finditer(text)]
    if not starts:
        return ""
    depth = 1
    for brace in BRACE.finditer(text, starts[-1]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[starts[-1] : brace.start()].strip()
    return ""


def kind_of(value: Any) -> str:
    """What a value is, in the words of an error message."""
    return KINDS.get(type(value), type(value).__name__)


def _find(
    seen: dict[str, ColumnPath],
    role: str,
    given: str,
    candidates: tuple[str, ...],
    where: str,
    required: bool = False,
) -> ColumnPath:
    if given:
        if given not in seen:
            raise PoolError(f"{where}: no column {given!r} for the {role}; columns seen: {_listing(seen)}")
        return seen[given]
    for name in candidates:
        if name in seen:
            return seen[name]
    if required:
        raise PoolError(
            f"{where}: no {role} column found (looked for {', '.join(candidates)}); "
            f"columns seen: {_listing(seen)}; name it with --{role}-column"
        )
    return ()


def _add(seen: dict[str, ColumnPath], path: ColumnPath) -> None:
    name = ".".join(path)
    if len(path) < len(seen.get(name, (*path, ""))):
        seen[name] = path


def _listing(seen: dict[str, ColumnPath]) -> str:
    names = list(seen)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def _message(message: Any) -> dict[str, Any]:
    """A chat message as the policy gets it: role, content as text, and whatever else it holds."""
    if not isinstance(message, dict):
        raise ValueError(f"must hold chat messages with role and content, found {kind_of(message)}")
    content = message.get("content")
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if content is None and message.get("tool_calls"):
        content = ""
    for key, value in (("role", message.get("role")), ("content", content)):
        if not isinstance(value, str):
            raise ValueError(f"has a chat message whose {key} is {kind_of(value)}, not text")
    rest = {key: value for key, value in message.items() if value is not None and key not in ("role", "content")}
    return {"role": message["role"], "content": content, **rest}


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)
