"""Pieces of HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from torchreg.reporting.markup import listed, table, text


class Reader(HTMLParser):
    """Reads HTML back: which elements there are, and what a person sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown += data


HOSTILE = ["<script>alert(1)</script>", '"onload="x', "a & b", "'", "&amp;", "日本語 🐧", "</td>"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_comes_is_read_back_as_it_was(hostile: str) -> None:
    read = Reader(f'<p title="{text(hostile)}">{text(hostile)}</p>')
    assert read.elements == [("p", {"title": hostile})]
    assert read.shown == hostile


def test_what_html_cannot_hold_is_shown_as_a_symbol() -> None:
    assert text("a\x00b\x1b") == "a␀b␛"
    text("\ud800").encode("utf-8")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_table_holds_nothing_but_its_own_elements(hostile: str) -> None:
    read = Reader(table(hostile, [hostile, hostile], [[hostile, hostile], ["b", 0.1234567]]))
    tags = {tag for tag, _ in read.elements}
    assert tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert read.shown == hostile * 5 + "b0.123457"
    assert all(
        set(attributes) <= {"scope", "class", "data-title", "title"}
        for _, attributes in read.elements
    )


def test_numbers_stand_under_titles_on_the_same_side() -> None:
    read = Reader(table("t", ["name", "value", "unit"], [["a", 1.0, "g"]]))
    classes = [attributes.get("class") for tag, attributes in read.elements if tag in ("th", "td")]
    assert classes == [None, "number", None] * 2


def test_a_table_without_rows_is_a_table() -> None:
    assert Reader(table("empty", ["a", "b"], [])).shown == "emptyab"


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
