"""Rows and columns, in terminals of any width and in pipes."""

from __future__ import annotations

from uuid import uuid4

import pytest
from rich.text import Text

from session_worker.cli.views.listing import LEAST, Listing, facts
from tests.unit.cli.test_words import shown

ID = str(uuid4())
LONG = "the other side is out of order " * 5


def lines(listing: Listing, width: int) -> list[str]:
    return shown(listing, width).splitlines()


def test_what_fits_is_one_line_for_a_row_without_spaces_at_its_end() -> None:
    """So that `grep 'completed$'` finds them."""
    listing = Listing("request", "count", "outcome", right=("count",))
    listing.add(ID, "7", Text("completed", style="green"))
    listing.add(ID, "1,000", "")

    assert lines(listing, 60) == [
        f"{'request':<36}  count  outcome",
        f"{ID}      7  completed",
        f"{ID}  1,000",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160])
def test_however_narrow_the_terminal_every_id_and_every_word_is_whole(width: int) -> None:
    listing = Listing("ago", "request", "code", "example", "why")
    for _ in range(2):
        listing.add("3.0 h", ID, "handler_failed", ID, LONG)

    text = shown(listing, width)

    assert max(map(len, text.splitlines())) <= width
    assert text.count(ID) == 4
    assert text.split().count("order") == 10


def test_the_columns_that_do_not_fit_stand_on_a_second_line_with_their_heads() -> None:
    listing = Listing("ago", "request", "code", "user")
    listing.add("3.0 h", ID, "handler_failed", "ada")
    listing.add("3.0 h", ID, "", "")

    assert lines(listing, 56) == [
        "ago    request",
        "    code  user",
        f"3.0 h  {ID}",
        "    handler_failed  ada",
        f"3.0 h  {ID}",
    ]


def test_a_long_last_cell_is_wrapped_below_itself_where_there_is_room() -> None:
    """And on lines of its own where there is too little."""
    listing = Listing("request", "why")
    listing.add(ID, LONG)

    beside, below = lines(listing, 38 + LEAST), lines(listing, 37 + LEAST)

    assert beside[1] == f"{ID}  the other side is out of order"
    assert beside[2] == f"{'':38}the other side is out of order"
    assert below[2] == ID
    assert below[3].startswith("    the other side is out of order the other side")


def test_a_brief_list_takes_no_more_lines_than_it_must() -> None:
    listing = Listing("request", "why", brief=True)
    listing.add(ID, LONG)

    assert [line.endswith("…") for line in lines(listing, 80)] == [False, True]
    assert [line.endswith("…") for line in lines(listing, 60)] == [False, False, False, True]


def test_facts_have_no_head() -> None:
    assert lines(facts([("request", ID), ("error", "none")]), 80) == [f"request  {ID}", "error    none"]
