"""Templates escape every value."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from torchreg.reporting.render import Table, join_names, printable, render


class Reader(HTMLParser):
    """Parses HTML: its elements, and the text that is shown."""

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


def table_html(caption: str, titles: list[str], rows: list[list[object]]) -> str:
    """Render a table alone."""
    table = Table(caption, titles, rows)
    html = render("network.html", summary="", module="", tables=[table], folded_rows=99)
    return html[html.index("<table>") : html.index("</table>") + len("</table>")]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_table_has_only_its_own_elements_and_shows_every_text_as_it_is(hostile: str) -> None:
    read = Reader(table_html(hostile, [hostile, hostile], [[hostile, hostile], ["b", 0.1234567]]))
    tags = {tag for tag, _ in read.elements}
    assert tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert read.shown == hostile * 5 + "b0.123457"
    titles = {a["data-title"] for _, a in read.elements if "data-title" in a}
    assert titles == {hostile}
    assert all(
        set(attributes) <= {"scope", "class", "data-title", "title"}
        for _, attributes in read.elements
    )


def test_characters_that_html_cannot_hold_are_shown_as_symbols() -> None:
    assert printable("a\x00b\x1b") == "a␀b␛"
    printable("\ud800").encode("utf-8")


def test_numbers_and_their_titles_are_aligned_alike() -> None:
    read = Reader(table_html("t", ["name", "value", "unit"], [["a", 1.0, "g"]]))
    classes = [attributes.get("class") for tag, attributes in read.elements if tag in ("th", "td")]
    assert classes == [None, "number", None] * 2


def test_a_table_without_rows_shows_caption_and_titles() -> None:
    assert Reader(table_html("empty", ["a", "b"], [])).shown == "emptyab"


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [join_names(["a"]), join_names(["a", "b"]), join_names(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
