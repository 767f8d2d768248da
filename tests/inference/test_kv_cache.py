"""Pages: shared between prompts with the same beginning, freed when no table holds them, evicted oldest first."""

from handler.inference.kv_cache import SCRATCH_PAGE, BlockTable, KVCache

TOKENS = list(range(100))


def computed(cache: KVCache, tokens: list[int], salt: bytes = b"") -> BlockTable:
    """The table of a sequence whose tokens have all been computed."""
    table = BlockTable(salt=salt)
    cache.adopt(table, tokens)
    assert cache.grow(table, len(tokens))
    cache.publish(table, tokens, len(tokens))
    return table


def test_a_table_grows_page_by_page() -> None:
    cache, table = KVCache(pages=9, page_size=4), BlockTable()
    for length, pages in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        assert cache.grow(table, length)
        assert len(table.pages) == pages
    assert cache.free == 8 - 3


def test_the_scratch_page_is_never_given_away() -> None:
    cache, table = KVCache(pages=9, page_size=4), BlockTable()
    assert cache.grow(table, 8 * 4)
    assert SCRATCH_PAGE not in table.pages
    assert cache.free == 0


def test_a_table_that_cannot_grow_stays_as_it_is() -> None:
    cache, table = KVCache(pages=4, page_size=4), BlockTable()
    assert cache.grow(table, 4)
    assert not cache.grow(table, 17)
    assert not cache.grow(table, 8, spare=2)
    assert len(table.pages) == 1
    assert cache.free == 2


def test_a_prefix_is_shared_in_full_pages() -> None:
    cache = KVCache(pages=30, page_size=4)
    first, second = computed(cache, TOKENS[:11]), BlockTable()
    assert cache.adopt(second, [*TOKENS[:10], 77, 78]) == 8
    assert second.pages == first.pages[:2]


def test_a_prompt_whose_every_page_is_known_still_computes_its_last_token() -> None:
    cache = KVCache(pages=30, page_size=4)
    computed(cache, TOKENS[:8])
    assert cache.adopt(BlockTable(), TOKENS[:8]) == 4
    assert cache.adopt(BlockTable(), TOKENS[:9]) == 8
    assert cache.adopt(BlockTable(), TOKENS[:1]) == 0


def test_a_prefix_is_shared_between_equal_salts_alone() -> None:
    for salt in (b"", b"a" * 32, b"b"):
        cache = KVCache(pages=30, page_size=4)
        computed(cache, TOKENS[:12], salt)
        for other in (b"", b"a" * 32, b"b"):
            assert cache.adopt(BlockTable(salt=other), TOKENS[:12]) == (8 if other == salt else 0)


def test_equal_pages_after_different_beginnings_are_different() -> None:
    cache = KVCache(pages=30, page_size=4)
    computed(cache, [1, 1, 1, 1, 5, 5, 5, 5])
    assert cache.adopt(BlockTable(), [2, 2, 2, 2, 5, 5, 5, 5, 0]) == 0
    assert cache.adopt(BlockTable(), [5, 5, 5, 5, 0]) == 0


def test_pages_are_known_as_soon_as_they_are_published_and_no_sooner() -> None:
    cache, table = KVCache(pages=30, page_size=4), BlockTable()
    cache.grow(table, 12)
    for length, known in ((3, 0), (4, 4), (7, 4), (8, 8)):
        cache.publish(table, TOKENS, length)
        other = BlockTable()
        assert cache.adopt(other, TOKENS) == known
        cache.release(other)


def test_released_pages_are_found_again_until_others_need_them() -> None:
    cache = KVCache(pages=5, page_size=4)
    cache.release(computed(cache, TOKENS[:8]))
    assert cache.free == 4
    table = BlockTable()
    assert cache.adopt(table, TOKENS) == 8
    cache.release(table)
    assert cache.grow(BlockTable(), 16)
    assert cache.adopt(BlockTable(), TOKENS) == 0
    assert cache.cached == 0


def test_the_prefix_unused_for_longest_is_evicted_first_from_its_end() -> None:
    cache = KVCache(pages=7, page_size=4)
    old, new = TOKENS[:12], TOKENS[50:62]
    for tokens in (old, new, old):
        cache.release(computed(cache, tokens))
    assert cache.grow(BlockTable(), 4 * 4)  # all of `new`, and the last page of `old`
    assert cache.adopt(BlockTable(), [*new, 0]) == 0
    assert cache.adopt(BlockTable(), [*old, 0]) == 8


def test_a_page_is_free_when_its_last_holder_lets_go() -> None:
    cache = KVCache(pages=9, page_size=4)
    first, second = computed(cache, TOKENS[:8]), BlockTable()
    cache.adopt(second, TOKENS[:9])
    cache.release(first)
    assert cache.free == 8 - 2
    cache.release(second)
    assert cache.free == 8


def test_two_that_compute_the_same_side_by_side_leave_one_copy_to_share() -> None:
    cache = KVCache(pages=9, page_size=4)
    first, second = BlockTable(), BlockTable()
    for table in (first, second):
        cache.grow(table, 4)
    for table in (first, second):
        cache.publish(table, TOKENS, 4)
    assert cache.cached == 1
    third = BlockTable()
    cache.adopt(third, TOKENS)
    assert third.pages == first.pages
    for table in (first, second, third):
        cache.release(table)
    assert cache.free == 8


def test_what_is_forgotten_is_shared_no_more_and_no_page_is_lost() -> None:
    cache = KVCache(pages=9, page_size=4)
    held = computed(cache, TOKENS[:8])
    cache.release(computed(cache, TOKENS[50:58]))
    cache.forget()
    assert cache.adopt(BlockTable(), TOKENS) == cache.adopt(BlockTable(), TOKENS[50:]) == 0
    cache.release(held)
    assert cache.free == 8
