"""The normal form repairs what is broken, keeps what is not, and is its own normal form."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataops.normal_form import _clean, _is_clean, normal_form

# Characters that the rules act on, and the bytes of UTF-8 read as Latin-1 and Windows-1252, beside any other text.
tricky = st.text(
    st.one_of(
        st.sampled_from(
            "a Ab.\n\n\n\t\r \x00\x0b\x0c\x1f\x7f\x85\x9d\xa0\xad\u200b\u200d\u2028\u3000\ufeff\u0301e̶A\u0303"
        ),
        st.sampled_from("ÃÂâ€™œ¶©ðŸ˜€Ñ€Ð\x80\x99¢"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)
broken = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(
    lambda text: text.encode().decode("latin-1")
)


@settings(max_examples=800, deadline=None)
@given(st.one_of(tricky, broken, st.tuples(tricky, broken, tricky).map("".join)))
@example("A\u0303©")  # becomes 'Ã©' by NFC, which is mojibake of 'é'
@example("Ã\u200b©")
@example("â\x80\x8b")
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    once = normal_form(text)
    assert normal_form(once) == once


@settings(max_examples=800, deadline=None)
@given(st.one_of(tricky, broken))
def test_text_that_is_taken_for_clean_is_left_alone_by_every_rule(text: str) -> None:
    text = text.replace("\r", "")
    if _is_clean(text):
        assert _clean(text) == text


@settings(max_examples=300, deadline=None)
@given(tricky)
def test_the_result_is_nfc_without_controls_or_trailing_spaces(text: str) -> None:
    form = normal_form(text)
    assert unicodedata.is_normalized("NFC", form)
    assert not [each for each in form if unicodedata.category(each) == "Cc" and each not in "\n\t"]
    assert all(line == line.rstrip() for line in form.split("\n"))
    assert "\n\n\n\n" not in form


@pytest.mark.parametrize(
    ("given_text", "form"),
    [
        ("schÃ¶n und gut", "schön und gut"),
        ("Itâ€™s fine", "It’s fine"),
        ("It\u00e2\u0080\u0099s fine", "It’s fine"),
        ("Ð\x9fÑ\x80Ð¸Ð²ÐµÑ\x82", "Привет"),
        ("plain\nschÃ¶n\nÜber Äpfel", "plain\nschön\nÜber Äpfel"),
        ("e\u0301", "é"),
        ("more\x85 It\x92s", "more… It’s"),
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\x1bd\x7f", "abcd"),
        ("\ufeffa\u200bb\u00adc\u2060", "abc"),
        ("a  \nb\t\nc\u3000\nd", "a\nb\nc\nd"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("\n \n  text  \n\n", "  text"),
        ("\u200b \n\x00", ""),
        ("", ""),
    ],
)
def test_each_rule(given_text: str, form: str) -> None:
    assert normal_form(given_text) == form


@pytest.mark.parametrize(
    "text",
    [
        "    def f(x):\n\t\treturn x  + 1\n\n\n    # end",
        "Straße, ÉTÉ, «déjà», ŒUVRE, naïve café",
        "NÃO, IRMÃ e MÃE",
        "Привет, мир. Ёлка",
        "我能吞下玻璃而不伤身体。",
        "می\u200cخواهم",  # Persian needs the zero-width non-joiner
        "👩\u200d🔬 👍🏽",
        "&lt;b&gt; “quoted” ﬁne ＡＢＣ",
        "Case IS Kept",
    ],
)
def test_text_that_is_not_broken_is_kept(text: str) -> None:
    assert normal_form(text) == text


@pytest.mark.parametrize("text", [" " * 2_000_000 + "x", "\n" * 2_000_000 + "x", "Ã" * 20_000, "a \n" * 500_000])
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    started = time.perf_counter()
    normal_form(text)
    assert time.perf_counter() - started < 5
