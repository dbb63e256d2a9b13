from __future__ import annotations

from typing import Any

import pytest
from manyhats.messages import FieldError, field_error, first_error, first_line, printable, short_repr
from pydantic import BaseModel, ValidationError, field_validator, model_validator


class Item(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _even(cls, size: int) -> int:
        if size % 2:
            raise ValueError("must be even")
        return size


class Order(BaseModel):
    items: list[Item]

    @model_validator(mode="after")
    def _some(self) -> Order:
        if not self.items:
            raise ValueError("there are no items")
        return self


def error_of(value: Any, with_input: bool = False) -> FieldError:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(value)
    return first_error(caught.value, with_input)


def test_the_first_error_has_its_place_and_a_reason():
    first = error_of({"items": [{"size": 2}, {"size": 3}, {"size": "x"}]}, with_input=True)
    assert first == FieldError(("items", 1, "size"), "value_error", "Value error, must be even", 3)
    assert (first.field, first.reason) == ("items.1.size", "must be even")


def test_an_error_of_no_single_field_has_no_location():
    first = error_of({"items": []})
    assert (first.location, first.field, first.reason) == ((), "", "there are no items")


def test_the_value_stands_in_it_only_where_it_is_wanted():
    assert error_of({"items": 5}).input is None
    assert error_of({"items": 5}, with_input=True).input == 5


def test_what_errors_lists_is_understood_without_a_value():
    assert field_error({"loc": ("body", "x"), "type": "missing", "msg": "Field required"}).field == "body.x"


def test_a_long_value_is_cut_short():
    assert short_repr("short") == "'short'"
    assert len(short_repr(list(range(1000)))) < 40


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (ValueError("\n  one  \ntwo"), "one  "), (AssertionError(), "AssertionError")],
)
def test_of_a_long_error_the_first_line_is_said_and_of_an_empty_one_its_class(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_what_is_no_text_is_escaped() -> None:
    assert printable("caf\u00e9 \udcff") == "caf\u00e9 \\udcff"
