import pytest

from tspo.evaluation.report.text import Piece, clean, cut, shorten, split_tags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is\t\nüñ 漢 😀 <b>&", "as it is\t\nüñ 漢 😀 <b>&"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a‹U+000D›b"),
        ("\x00\x07\x1b[31m\x7f\x85", "‹U+0000›‹U+0007›‹U+001B›[31m‹U+007F›‹U+0085›"),
        ("\ud800x\udfff", "‹U+D800›x‹U+DFFF›"),
        ("\u202eevil\u202c\u2067", "‹U+202E›evil‹U+202C›‹U+2067›"),
    ],
)
def test_what_cannot_be_seen_is_named(text, shown):
    assert clean(text) == shown
    clean(text).encode("utf-8")


def test_a_short_text_stays_whole():
    assert shorten("12345", 5) == "12345"
    assert cut("12345", 5) == [Piece("text", "12345")]
    assert cut("12345", 5, (1, 3)) == [Piece("text", "1"), Piece("mark", "23"), Piece("text", "45")]


def test_a_long_text_says_how_much_is_left_out():
    assert shorten("a" * 1_234_567, 567) == "a" * 567 + "… (1,234,000 more characters)"
    assert cut("a" * 1000 + "b" * 5000, 1000) == [Piece("text", "a" * 1000), Piece("cut", "5,000 characters left out")]


@pytest.mark.parametrize("start", [0, 40, 80, 99, 100, 5000, 9990])
def test_a_mark_is_never_left_out(start):
    text = "." * start + "ANSWER" + "." * (9994 - start)
    pieces = cut(text, 100, (start, start + 6))
    assert [piece.text for piece in pieces if piece.kind == "mark"] == ["ANSWER"]
    shown = sum(len(piece.text) for piece in pieces if piece.kind != "cut")
    assert shown <= 110
    left_out = sum(int(piece.text.split()[0].replace(",", "")) for piece in pieces if piece.kind == "cut")
    assert shown + left_out == len(text)


def test_an_endless_mark_is_cut_too():
    pieces = cut("x" * 1_000_000, 100, (1000, 900_000))
    assert sum(len(piece.text) for piece in pieces) < 250
    assert "mark" in [piece.kind for piece in pieces]


def test_tags_are_told_apart():
    assert split_tags([Piece("text", "<think>a</think><b>"), Piece("cut", "<think>")]) == [
        Piece("tag", "<think>"),
        Piece("text", "a"),
        Piece("tag", "</think>"),
        Piece("text", "<b>"),
        Piece("cut", "<think>"),
    ]
