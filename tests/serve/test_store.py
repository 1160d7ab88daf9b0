"""Encoded pictures: bounded by bytes and age, the least recently asked forgotten first, each its client's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanseg.images import Geometry
from sanseg.model.san import Proposals
from sanseg.segmenter import Encoded
from sanseg.serve.problems import Problem
from sanseg.serve.store import Store, size_of


def encoded(pixels: int) -> Encoded:
    """It takes 3 bytes a pixel and 4 for each of 5 numbers."""
    geometry = Geometry((1, pixels), (1, pixels), (1, pixels))
    proposals = Proposals(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 4))
    return Encoded(proposals, geometry, np.zeros((1, pixels, 3), np.uint8), None)  # type: ignore[arg-type]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_size_is_all_that_is_kept() -> None:
    assert size_of(encoded(10)) == 3 * 10 + 4 * 5


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "find", "forget", "wait"]),
        st.integers(0, 2),  # which picture; of "wait" the seconds
        st.sampled_from([b"", b"a"]),
        st.integers(1, 40),  # pixels
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_store_is_a_bounded_list_of_who_asked_last(steps: list[tuple[str, int, bytes, int]]) -> None:
    clock = Clock()
    store = Store(200, 10, clock)
    model: dict[str, tuple[bytes, int, float]] = {}  # in the order of when they were asked for last
    for step, number, client, pixels in steps:
        if step == "wait":
            clock.now += number
        model = {id_: one for id_, one in model.items() if one[2] > clock.now}
        id_ = store.id(client, bytes([number]))
        if step == "put":
            store.put(id_, client, encoded(pixels))
            model.pop(id_, None)
            size = 3 * pixels + 20
            while sum(one[1] for one in model.values()) + size > 200:
                del model[next(iter(model))]
            model[id_] = (client, size, clock.now + 10)
        elif step in ("find", "forget"):
            if id_ in model:
                one = model.pop(id_)
                assert (store.find if step == "find" else store.forget)(id_, client) or step == "forget"
                if step == "find":
                    model[id_] = (*one[:2], clock.now + 10)
            else:
                with pytest.raises(Problem):
                    (store.find if step == "find" else store.forget)(id_, client)
        store.sweep()
        assert store.bytes == sum(one[1] for one in model.values()) <= 200
        assert len(store) == len(model)


def test_anothers_picture_is_neither_found_nor_forgotten() -> None:
    store = Store(1000, 10)
    id_ = store.id(b"a", b"photo")
    store.put(id_, b"a", encoded(1))
    for work in (store.find, store.forget):
        with pytest.raises(Problem):
            work(id_, b"b")
    assert store.find(id_, b"a")


def test_what_is_too_large_even_alone_is_refused_and_costs_nobody_anything() -> None:
    store = Store(100, 10)
    store.put("small", b"", encoded(1))
    with pytest.raises(Problem, match="100 may be kept") as error:
        store.put("large", b"", encoded(100))
    assert error.value.status_code == 413
    assert len(store) == 1


def test_an_id_is_of_client_and_picture_together() -> None:
    """Where one ends and the other begins is told: "ab" with "c" is not "a" with "bc"."""
    store = Store(100, 10)
    ids = {
        store.id(client, data)
        for client, data in ((b"ab", b"c"), (b"a", b"bc"), (b"", b"abc"), (b"abc", b""))
    }
    assert len(ids) == 4
    assert Store(100, 10).id(b"ab", b"c") not in ids


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    store = Store(2 * (3 * 10 + 20), 10)
    for id_ in ("first", "second"):
        store.put(id_, b"", encoded(10))
    store.find("first", b"")
    store.put("third", b"", encoded(10))
    assert store.find("first", b"")
    assert store.find("third", b"")
    with pytest.raises(Problem):
        store.find("second", b"")
