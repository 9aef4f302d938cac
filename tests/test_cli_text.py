"""What the command line prints: tables, names and sizes, whatever is in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sparsefact.cli.table import layout
from sparsefact.cli.text import printable, shortened, size

cells = st.text(st.characters(categories=["L", "N", "P"]), max_size=12)


@given(
    rows=st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=4)),
    width=st.none() | st.integers(1, 100),
)
def test_tables_lose_nothing_and_fit_when_they_can(rows: list[list[str]], width: int | None) -> None:
    head, body = layout(rows[0], rows[1:], width=width)
    expected = "".join("".join(row) for row in rows)
    assert sorted("".join(head + body).replace(" ", "")) == sorted(expected)
    each = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if width is not None and max(each[0], sum(each[1:]) + 2 * max(0, len(each) - 2)) <= width:
        assert all(cell_len(line) <= width for line in head + body)


@given(text=st.text(), length=st.integers(4, 40))
def test_shortened_text_fits_and_keeps_both_ends(text: str, length: int) -> None:
    short = shortened(text, length)
    assert len(short) <= length
    assert short == text or (len(text) > length and text.endswith(short.split("...")[-1]))


@given(st.text(st.characters(categories=["Cc", "Cs", "Cf", "L", "Zl"])))
def test_printable_text_is_printable_and_plain_text_is_untouched(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


@given(st.integers(0, 1 << 60))
def test_sizes_read_back_to_five_percent(count: int) -> None:
    value, unit = size(count).split()
    factor = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert abs(float(value) * factor - count) <= 0.05 * count
