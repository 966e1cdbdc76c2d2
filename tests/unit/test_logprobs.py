"""Packed logprobs: what goes in comes out, and what does not fit together is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo.logprobs import Logprobs

FLOATS = st.floats(-100, 0, width=32)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Logprobs, list[float], list[list[tuple[int, float]]]]:
    """A packed table and what was packed."""
    num_top, rows = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    own = draw(st.lists(FLOATS, min_size=rows, max_size=rows))
    pair = st.tuples(st.integers(0, 2**31 - 1), FLOATS)
    row = st.lists(pair, min_size=num_top, max_size=num_top)
    best = draw(st.lists(row, min_size=rows, max_size=rows))
    flat = [pair for line in best for pair in line]
    packed = Logprobs.pack(num_top, own, [i for i, _ in flat], [value for _, value in flat])
    return packed, own, best


@given(tables())
def test_rows_come_out_as_they_were_packed(
    table: tuple[Logprobs, list[float], list[list[tuple[int, float]]]],
) -> None:
    packed, own, best = table
    assert len(packed) == len(own)
    assert [row.logprob for row in packed.rows()] == own
    assert [list(row.top) for row in packed.rows()] == best


@given(tables(), st.integers(0, 8))
def test_parts_make_up_the_whole(
    table: tuple[Logprobs, list[float], list[list[tuple[int, float]]]], border: int
) -> None:
    packed = table[0]
    assert Logprobs.join((packed.part(0, border), packed.part(border))) == packed
    assert packed.part(border).rows() == packed.rows()[border:]
    assert packed.part(0, border).rows() == packed.rows()[:border]


def test_a_row_alone_with_fewer_alternatives() -> None:
    packed = Logprobs.pack(2, [-1.0, -2.0], [5, 6, 7, 8], [-0.5, -1.5, -0.25, -3.0])
    [row] = packed.at(1, 1).rows()
    assert (row.logprob, row.top) == (-2.0, ((7, -0.25),))


@pytest.mark.parametrize(
    "fields", [(1, b"1234"), (0, b"123"), (-1, b""), (0, b"1234", b"1234"), (2, b"1234", b"1234")]
)
def test_lengths_that_do_not_agree_are_no_message(fields: tuple[object, ...]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Logprobs)
