"""The search for learning rate and batch size: what is tried, in which order, and how it is judged."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from catalog.errors import UsageError
from clusters.tuning import parse_setting, parse_space
from training import tune
from training.loop import Diverged
from training.tune import Setting, Space, Task, Trial, run_trial, settings_to_try, table


def test_known_settings_come_first_and_more_trials_contain_fewer():
    known = [Setting(learning_rate=4e-3, batch_rows=16)]
    few, many = (settings_to_try(Space(), n, known=known, seed=1) for n in (5, 40))
    assert few[0] == many[0] == known[0]
    assert many[:5] == few
    assert len(set(many)) == 40
    assert settings_to_try(Space(), 5, known=known, seed=2)[1:] != few[1:]


def test_the_rates_cover_their_range_evenly_in_the_logarithm():
    space = Space(learning_rates=(1e-4, 1e-1), batch_rows=(8,))
    rates = sorted(each.learning_rate for each in settings_to_try(space, 30, known=[], seed=0))
    assert 1e-4 <= rates[0] <= rates[-1] <= 1e-1
    gaps = [math.log10(b / a) for a, b in pairwise(rates)]
    assert max(gaps) < 3 * 2.2 / 30


@pytest.fixture
def task(pack, shape, settings, documents):
    train = dataclasses.replace(settings, tokens=18 * 8 * 32)
    return Task(packs=(pack,), weights=None, model=shape, train=train, validation=documents)


def test_a_trial_reports_at_its_rungs_and_a_good_rate_beats_a_useless_one(tmp_path, task):
    def trained(rate, rows):
        told: list[tuple[int, float]] = []
        setting = Setting(learning_rate=rate, batch_rows=rows)
        run_trial(task, setting, tmp_path / f"{rate}-{rows}", lambda *given: told.append(given))
        return told

    good, useless, small = trained(1e-2, 8), trained(1e-6, 8), trained(1e-2, 4)
    assert [tokens for tokens, _ in good] == [2 * 8 * 32 * i for i in range(1, 10)]
    assert good[-1][0] == small[-1][0] == task.train.tokens
    assert good[-1][1] < useless[-1][1] - 0.1


def test_a_trial_that_diverges_has_infinite_bits_and_ends_no_search(tmp_path, task, monkeypatch):
    def diverge(*_, **__):
        raise Diverged("the loss of step 3 is nan")

    told: list[tuple[int, float]] = []
    monkeypatch.setattr(tune, "run_loop", diverge)
    run_trial(task, Setting(learning_rate=1e9, batch_rows=8), tmp_path, lambda *given: told.append(given))
    assert told == [(task.train.tokens, math.inf)]


def test_the_table_puts_those_that_came_further_before_those_that_were_stopped():
    def trial(rate, tokens, bits):
        return Trial(
            learning_rate=rate, batch_rows=8, tokens=tokens, bits_per_byte=bits, seconds=1.0, finished=tokens == 9
        )

    rows = table([trial(1.0, 3, 1.5), trial(2.0, 9, 2.0), trial(3.0, 9, 1.9)]).to_pylist()
    assert [row["learning_rate"] for row in rows] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("words", [("1:2:3", "8"), ("2e-2:1e-3", "8"), ("1e-3:1e-2", "8,x"), ("1e-3:1e-2", "0")])
def test_words_that_are_no_space_or_setting_are_refused(words):
    with pytest.raises(UsageError, match="expected"):
        parse_space(*words)
    with pytest.raises(UsageError, match="is not a setting"):
        parse_setting(words[0])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_search_on_ray_finishes_the_good_rate_and_stops_useless_ones(tmp_path, task, capsys):
    from training.worker import search_with_ray

    settings = [Setting(learning_rate=rate, batch_rows=8) for rate in (1e-2, 5e-3, 1e-6, 2e-6, 3e-6, 4e-6)]
    heard: list[Trial] = []
    found = search_with_ray(task, settings, folder=tmp_path, concurrent=2, on_report=heard.append)
    assert capsys.readouterr().out == "", "the table alone goes to standard output"
    best = table(found).to_pylist()[0]
    assert best["learning_rate"] in (1e-2, 5e-3)
    assert best["finished"]
    assert sum(not trial.finished for trial in found) >= 2
    assert len(heard) >= 9
