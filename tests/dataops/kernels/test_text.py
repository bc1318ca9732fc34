"""The matching form is Python's own on every text; words are Python's `\\w+` except for marks and unspaced scripts."""

import re
import sys
import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels import codepoints, text

EVERY_CHARACTER = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
WRITINGS = [
    "Plain ASCII, with_underscore and 3.14!",
    "Les œuvres d’été — “citées” à l’École…",
    "ΟΔΥΣΣΕΥΣ Σίσυφος",
    "ﬁne ½ ™ ＦＵＬＬ　ｗｉｄｔｈ",
    "e\u0301tude cafe\u0301 A\u030angstro\u0308m",
    "مَرْحَبًا بالعالم ١٢٣",
    "שָׁלוֹם עולם",
    "हिन्दी में लिखा हुआ",
    "漢字とカタカナ、ｶﾞｷﾞ mixed英語text",
    "ภาษาไทยไม่มีช่องว่าง",
    "ភាសាខ្មែរ မြန်မာ ລາວ",
    "한국어 단어 \u1100\u1161\u11a8",
    "🙂👩‍👩‍👧 keycap 1️⃣ flag 🇫🇷",
    "İstanbul ΣΑΣ. ǅ",
    "",
]
DIFFICULT = st.text(
    st.sampled_from(
        "aZ_9 .-éÉẞßΣσςİıǅﬁ½…\u0301\u0323\u0327\u0345\u093f\u1100\u1161\u11a8각"
        "ガか\u3099ｶﾞ漢々〇ไทย\u0e31🙂\u200d\ufe0f\u00a0\u2028"
    ),
    max_size=30,
)


def python_form(string: str) -> str:
    return unicodedata.normalize("NFKC", string).lower()


def character_set(flag: np.uint8) -> str:
    points = np.flatnonzero(codepoints.classes() & flag)
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    return "".join(f"{re.escape(chr(run[0]))}-{re.escape(chr(run[-1]))}" for run in runs)


UNSPACED, MARKS = character_set(codepoints.UNSPACED), character_set(codepoints.MARK)
WORDS = re.compile(f"[{UNSPACED}]|(?![{UNSPACED}])\\w(?:(?![{UNSPACED}])[\\w{MARKS}])*")


def test_classes_are_what_python_says_of_each_character() -> None:
    flags = codepoints.classes()[[ord(c) for c in EVERY_CHARACTER]]
    spaced = (flags & codepoints.UNSPACED) == 0
    word = np.array([c.isalnum() or c == "_" for c in EVERY_CHARACTER])
    assert np.array_equal((flags & codepoints.WORD != 0)[spaced], word[spaced])
    for flag, predicate in [
        (codepoints.LETTER, str.isalpha),
        (codepoints.DIGIT, str.isdecimal),
        (codepoints.SPACE, str.isspace),
        (codepoints.UPPER, lambda c: unicodedata.category(c) == "Lu"),
        (codepoints.MARK, lambda c: unicodedata.category(c)[0] == "M"),
    ]:
        assert np.array_equal(flags & flag != 0, [predicate(c) for c in EVERY_CHARACTER])


def test_matching_form_of_each_character_alone_and_between_others_is_pythons() -> None:
    for template in ("{}", "a{}", "\u0301{}e", "Σ{}", "{}\u0301\u0327"):
        characters = (
            EVERY_CHARACTER[:0x3400] + EVERY_CHARACTER[0x3400::37] if template != "{}" else EVERY_CHARACTER[:0x33000]
        )
        strings = [template.format(c) for c in characters]
        got = text.matching_form(pa.array(strings)).to_pylist()
        wrong = [s for s, g in zip(strings, got, strict=True) if g != python_form(s)]
        assert not wrong


@given(st.lists(st.one_of(DIFFICULT, st.text(), st.none())))
def test_matching_form_is_pythons(strings: list[str | None]) -> None:
    got = text.matching_form(pa.array(strings, pa.string())).to_pylist()
    assert got == [python_form(s or "") for s in strings]


def test_matching_form_of_real_writing_is_pythons_in_every_batch_split() -> None:
    texts = pa.array(WRITINGS)
    expected = [python_form(s) for s in WRITINGS]
    assert text.matching_form(texts).to_pylist() == expected
    assert text.matching_form(texts.slice(3, 5)).to_pylist() == expected[3:8]
    assert text.matching_form(pa.chunked_array([texts[:4], texts[4:]])).to_pylist() == expected


@given(st.lists(st.one_of(DIFFICULT, st.text())))
def test_words_are_runs_of_word_characters_with_their_marks(strings: list[str]) -> None:
    assert text.words(pa.array(strings, pa.string())) == [WORDS.findall(s) for s in strings]


@given(st.lists(st.text()))
def test_without_marks_and_unspaced_scripts_words_are_pythons(strings: list[str]) -> None:
    strings = [re.sub(f"[{UNSPACED}{MARKS}]", " ", python_form(s)) for s in strings]
    assert text.words(pa.array(strings, pa.string())) == [re.findall(r"\w+", s) for s in strings]


def test_words_differ_from_pythons_only_as_documented() -> None:
    got = dict(zip(WRITINGS, text.words(pa.array(WRITINGS)), strict=True))
    assert got["हिन्दी में लिखा हुआ"] == ["हिन्दी", "में", "लिखा", "हुआ"]  # Python cuts at every vowel sign
    assert got["漢字とカタカナ、ｶﾞｷﾞ mixed英語text"][:4] == ["漢", "字", "と", "カ"]
    assert got["漢字とカタカナ、ｶﾞｷﾞ mixed英語text"][-4:] == ["mixed", "英", "語", "text"]
    assert len(got["ภาษาไทยไม่มีช่องว่าง"]) == len("ภาษาไทยไม่มีช่องว่าง")
    assert got["🙂👩‍👩‍👧 keycap 1️⃣ flag 🇫🇷"] == ["keycap", "1️⃣", "flag"]
    assert got[""] == []
