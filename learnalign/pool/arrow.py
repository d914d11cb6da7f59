"""One form for Arrow's many types: views become plain text and lists, JSON columns become values.

Polars writes string views, which Arrow can read and not take rows of; current `datasets` write `arrow.json`, whose
values are text until somebody decodes them. This module reads no files.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa


def without_views(table: pa.Table) -> pa.Table:
    """The table with views as plain types, every value and the metadata unchanged."""
    fields = [field.with_type(_plain(field.type)) for field in table.schema]
    schema = pa.schema(fields, table.schema.metadata)
    return table if schema.equals(table.schema) else table.cast(schema)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that `without_views` gives a table."""
    return pa.schema([field.with_type(_plain(field.type)) for field in schema], schema.metadata)


def is_json(kind: pa.DataType) -> bool:
    """Whether the type is Arrow's JSON: text that stands for a value."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def holds_json(kind: pa.DataType) -> bool:
    """Whether there is JSON anywhere in the type."""
    return is_json(kind) or any(holds_json(kind.field(k).type) for k in range(kind.num_fields))


def decoded(value: Any, kind: pa.DataType) -> Any:
    """A Python value of this type, JSON text in it decoded. Raises `ValueError` for text that is no JSON."""
    if value is None or not holds_json(kind):
        return value
    if is_json(kind):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {field.name: decoded(value[field.name], field.type) for field in kind.fields}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [decoded(inner, kind.value_type) for inner in value]
    return value


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind.fields])
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    return kind
