"""Lists of pairs and names that are lists, and small."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2pix.pair_list import Pair, Pairs, Texts

# Whatever a path can hold: no NUL; bytes that are no text become lone surrogates of this range.
PATHS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    min_size=1,
)
PAIRS = st.builds(Pair, PATHS, st.sampled_from([None, "train", "val", "test"]), PATHS, st.none() | PATHS)


@given(texts=st.lists(PATHS | st.just("")), cut=st.slices(12))
def test_texts_are_a_list_of_them(texts: list[str], cut: slice) -> None:
    packed = Texts()
    for text in texts:
        packed.append(text)
    assert (list(packed), len(packed), packed[cut]) == (texts, len(texts), texts[cut])
    assert [packed[-1 - index] for index in range(len(texts))] == texts[::-1]


@given(pairs=st.lists(PAIRS), cut=st.slices(12))
def test_pairs_are_a_list_of_them(pairs: list[Pair], cut: slice) -> None:
    packed = Pairs(pairs)
    assert (list(packed), len(packed), packed[cut]) == (pairs, len(pairs), pairs[cut])


@pytest.mark.parametrize("index", [2, -3])
def test_what_is_not_in_a_list_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        Pairs([Pair("1", None, "1.png"), Pair("2", None, "2.png")])[index]


def test_a_pair_takes_little_more_than_its_letters() -> None:
    tracemalloc.start()
    try:
        packed = Pairs(Pair(f"{index:07}", None, f"{index:07}.png") for index in range(10_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Name and path are 18 bytes.
    assert held < 40 * len(packed)
