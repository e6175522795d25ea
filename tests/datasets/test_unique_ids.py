from hypothesis import given
from hypothesis import strategies as st

from tspo.datasets.unique_ids import UniqueIds


def first_repetition(identifiers, recent):
    """The place of an id that the structure says was there before."""
    ids = UniqueIds(recent)
    for place, identifier in enumerate(identifiers):
        if not ids.add(identifier, str(place)):
            return str(place)
        if ids.full and (found := ids.suspects()):
            return found[0][1]
    found = ids.suspects()
    return found[0][1] if found else None


@given(st.lists(st.integers(0, 40).map(str), max_size=60), st.integers(1, 12))
def test_a_repetition_is_found_whenever_there_is_one(identifiers, recent):
    found = first_repetition(identifiers, recent)
    assert (found is None) == (len(set(identifiers)) == len(identifiers))
    if found is not None:
        assert identifiers[int(found)] in identifiers[: int(found)]


def test_many_unique_ids_raise_no_suspicion():
    assert first_repetition(map(str, range(50_000)), 1 << 10) is None
