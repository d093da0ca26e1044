"""The smallest valid instance of any schema that Parlant asks a language model to fill in."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

_EMPTY: Mapping[type, Any] = {str: "", bool: False, int: 0, float: 0.0}


def fill(schema: Any, **values: Any) -> Any:
    """An instance of the pydantic model *schema*: *values*, else the least that is valid."""
    filled = {name: value for name, value in values.items() if name in schema.model_fields}
    for name, field in schema.model_fields.items():
        if name not in filled and field.is_required():
            filled[name] = _least(field.annotation)
    return schema.model_validate(filled)


def item(schema: Any, name: str) -> Any:
    """The model of the items of *schema*'s list *name*; None where there is no such list."""
    field = schema.model_fields.get(name)
    arguments = get_args(field.annotation) if field is not None else ()
    return next((argument for argument in arguments if hasattr(argument, "model_fields")), None)


def _least(annotation: Any) -> Any:
    if annotation in _EMPTY:
        return _EMPTY[annotation]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        choices = get_args(annotation)
        return None if type(None) in choices else _least(choices[0])
    if origin is Literal:
        return get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next(iter(annotation))
    if hasattr(annotation, "model_fields"):
        return fill(annotation)
    container = origin if isinstance(origin, type) else annotation
    if isinstance(container, type) and issubclass(container, Mapping):
        return {}
    if isinstance(container, type) and issubclass(container, Sequence):
        return []
    return None
