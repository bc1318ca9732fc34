from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.fingerprint import added, canonical, fingerprint

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@dataclass(frozen=True, kw_only=True)
class Sieve:
    mesh: float
    names: frozenset[str] = frozenset()
    hands: int = field(default=1, compare=False)


def test_what_only_affects_speed_leaves_no_trace():
    assert fingerprint(Sieve(mesh=0.5, hands=1)) == fingerprint(Sieve(mesh=0.5, hands=64))
    assert "hands" not in canonical(Sieve(mesh=0.5))


def test_every_setting_and_the_class_name_bear_identity():
    other = make_dataclass("Colander", ["mesh", "names"])
    values = [Sieve(mesh=0.5), Sieve(mesh=0.6), Sieve(mesh=0.5, names=frozenset("a")), other(0.5, frozenset())]
    assert len({fingerprint(value) for value in values}) == 4


def test_a_setting_that_came_later_leaves_no_trace_at_its_default():
    @dataclass(frozen=True, kw_only=True)
    class Step:
        tokens: int

    before = fingerprint(Step(tokens=1))

    @dataclass(frozen=True, kw_only=True)
    class Step:
        tokens: int
        device: str = added("cpu")

    assert fingerprint(Step(tokens=1)) == fingerprint(Step(tokens=1, device="cpu")) == before
    assert fingerprint(Step(tokens=1, device="cuda")) != before
    assert canonical(Step(tokens=1, device="cuda"))["device"] == "cuda"


def test_a_raised_revision_is_another_identity():
    @dataclass(frozen=True)
    class Step:
        revision: ClassVar[int] = 1

    before = fingerprint(Step())
    Step.revision = 2
    assert fingerprint(Step()) != before


def test_equal_settings_are_equal_however_they_are_spelled():
    assert fingerprint(Sieve(mesh=1)) == fingerprint(Sieve(mesh=1.0))
    assert fingerprint([0.0]) == fingerprint([-0.0])
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})


def test_a_set_has_no_order_in_any_process():
    code = "from catalog.fingerprint import fingerprint; print(fingerprint({'a','b','c','d',(1,2),3}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_what_has_no_canonical_form_is_named():
    with pytest.raises(TypeError, match="a object has no canonical form"):
        fingerprint({"x": object()})


def test_names_that_utf8_cannot_carry_have_a_fingerprint():
    assert fingerprint(os.fsdecode(b"\xff")) != fingerprint(os.fsdecode(b"\xfe"))


@given(VALUES)
def test_a_value_that_went_through_json_keeps_its_fingerprint(value):
    assert fingerprint(json.loads(json.dumps(value))) == fingerprint(value)


@given(VALUES, VALUES)
def test_fingerprints_are_equal_exactly_when_canonical_forms_are(one, two):
    same = json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(two), sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_a_mapping_does_not_matter(mapping):
    assert fingerprint(mapping) == fingerprint(dict(reversed(mapping.items())))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_two_floats_share_a_fingerprint_only_when_equal(value):
    assert fingerprint(value) != fingerprint(math.nextafter(value, math.inf))
