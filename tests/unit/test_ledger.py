"""The KV ledger: blocks, and prefixes that several requests share."""

from __future__ import annotations

from rondo.policy.ledger import KvLedger
from rondo.prefix import block_names


def filled(ledger: KvLedger, request_id: str, tokens: list[int]) -> list[bytes]:
    """A request that owns and has computed all its blocks; their names."""
    names = block_names(tokens, ledger.block_size)
    assert ledger.grow(request_id, len(tokens))
    ledger.name(request_id, 0, names)
    return list(names)


def test_names_tell_first_tokens_apart() -> None:
    names = block_names(list(range(10)), 4)
    assert len(names) == 2, "what does not fill a block has no name"
    assert block_names(list(range(8)), 4) == names
    assert block_names([9, *range(1, 10)], 4)[1] != names[1], "the second block's past is in it"


def test_a_prefix_is_shared_while_it_lives_and_after() -> None:
    ledger = KvLedger(8, 4)
    names = filled(ledger, "a", list(range(12)))
    assert ledger.share("b", names[:2]) == 2
    assert list(ledger.table("b")) == list(ledger.table("a"))[:2]
    assert ledger.occupancy(0).used_blocks == 3
    ledger.release("a")
    assert ledger.num_free == 6, "b still owns two"
    ledger.release("b")
    assert ledger.num_free == 8
    assert ledger.found(names) == 3, "nobody wanted their place yet"
    assert ledger.share("c", names) == 3
    ledger.check_invariants()


def test_what_was_let_go_first_makes_place_first_and_ends_before_beginnings() -> None:
    ledger = KvLedger(6, 4)
    old, new = filled(ledger, "old", [1] * 8), filled(ledger, "new", [2] * 8)
    ledger.release("old")
    ledger.release("new")
    assert ledger.grow("x", 12), "two blocks are free, one is dropped"
    assert (ledger.found(old), ledger.found(new)) == (1, 2)
    assert ledger.grow("x", 16)
    assert (ledger.found(old), ledger.found(new)) == (0, 2)
    assert not ledger.grow("x", 28), "six blocks hold 24 tokens"
    assert ledger.found(new) == 2, "a refusal drops nothing"
    ledger.check_invariants()


def test_a_name_stays_with_the_block_that_had_it_first() -> None:
    ledger = KvLedger(4, 4)
    names = filled(ledger, "a", [1] * 4)
    filled(ledger, "b", [1] * 4)
    ledger.release("a")
    ledger.check_invariants()
    assert ledger.share("c", names) == 1
    assert list(ledger.table("c")) != list(ledger.table("b"))
