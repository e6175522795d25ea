from hypothesis import given
from hypothesis import strategies as st

from tspo.ask.turn_text import TurnText

TAGS = ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"]
PARTS = st.sampled_from([*TAGS, "<", ">", "</", "<se", "think", "a", " ", "\n", "é", "<think", "<b>"])


def joined(pieces):
    """The pieces with neighbours of one kind put together."""
    found = []
    for kind, text in pieces:
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found


def at_once(text):
    turn = TurnText()
    return joined([*turn.feed(text), *turn.end()])


def test_text_belongs_to_the_tag_it_stands_in():
    text = "hm <think>I look</think>\n<search>Paris</search><answer>a < b</answer> so"
    assert at_once(text) == [
        ("text", "hm "),
        ("think", "I look"),
        ("text", "\n"),
        ("search", "Paris"),
        ("answer", "a < b"),
        ("text", " so"),
    ]


def test_what_may_become_a_tag_waits():
    turn = TurnText()
    assert turn.feed("<think>so</thi") == [("think", "so")]
    assert turn.feed("n") == []
    assert turn.feed("g") == [("think", "</thing")]
    assert turn.feed(" <") == [("think", " ")]
    assert turn.end() == [("think", "<")]


@given(st.lists(PARTS), st.data())
def test_however_a_text_is_cut_its_pieces_are_the_same(parts, data):
    text = "".join(parts)
    turn = TurnText()
    pieces, start = [], 0
    while start < len(text):
        size = data.draw(st.integers(1, 4))
        pieces += turn.feed(text[start : start + size])
        start += size
    assert joined([*pieces, *turn.end()]) == at_once(text)
