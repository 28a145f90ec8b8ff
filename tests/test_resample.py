"""Series at other rates and over gaps: the same numbers however they are cut, nothing folded back, nothing invented."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.signal import resample_poly

from mmssl.data.sources.series import standardise
from mmssl.data.sources.series.gaps import bridge, fill_back
from mmssl.data.sources.series.resample import Joined, Resampled
from mmssl.data.sources.series.units import factor
from mmssl.errors import ConfigError, DataError


@pytest.mark.parametrize("rate, wanted", [(700, 100), (360, 100), (100, 128), (250, 100), (64, 64), (1 / 3, 1)])
def test_slices_are_those_of_the_whole_recording_resampled_at_once(rate, wanted):
    x = np.random.default_rng(0).normal(size=(2100, 2)).cumsum(0)
    ratio = (Fraction(wanted).limit_denominator(1000) / Fraction(rate).limit_denominator(1000))
    up, down, pad = ratio.numerator, ratio.denominator, 30 * ratio.denominator
    held = np.pad(x, ((pad, pad), (0, 0)), mode="edge")  # the first and last sample go on
    whole = resample_poly(held, up, down, axis=0)[pad * up // down:]
    signal = Resampled(x, rate, wanted)
    assert len(signal) == 2100 * up // down
    for start, stop in ((0, len(signal)), (0, 5), (len(signal) - 5, len(signal)), (101, 138), (130, 131)):
        np.testing.assert_allclose(signal[start:stop], whole[start:stop], rtol=0, atol=1e-10)


def test_what_is_too_fast_for_the_new_rate_is_gone_and_the_rest_stays():
    time = np.arange(7000) / 700
    slow, fast = np.sin(2 * np.pi * 10 * time), np.sin(2 * np.pi * 290 * time)  # 290 Hz would come back as 10 Hz
    got = Resampled((slow + fast)[:, None], 700, 100)[100:900][:, 0]
    want = np.sin(2 * np.pi * 10 * np.arange(100, 900) / 100)
    assert np.abs(got - want).max() < 5e-3 and np.abs((slow + fast)[::7][100:900] - want).max() > 0.9


def test_a_sample_that_is_no_number_spoils_only_its_surroundings():
    x = np.ones((7000, 1))
    x[3500] = np.nan
    bad = np.isnan(Resampled(x, 700, 100)[0:1000][:, 0])
    assert bad[500] and 10 <= bad.sum() <= 30 and not bad[:480].any() and not bad[520:].any()


def test_an_impossible_ratio_is_refused():
    with pytest.raises(ConfigError, match="cannot be resampled to"):
        Resampled(np.ones((5, 1)), 700, 99.99)


def test_an_envelope_is_joined_by_straight_lines_wherever_it_is_cut():
    x = np.random.default_rng(1).normal(size=(30, 1))
    want = np.interp(np.arange(3000) / 100, np.arange(30), x[:, 0])
    signal = Joined(x, 100)
    for start, stop in ((0, 3000), (0, 100), (99, 101), (250, 257), (2890, 3000)):
        np.testing.assert_allclose(signal[start:stop][:, 0], want[start:stop], rtol=1e-12)


def bridged_by_hand(x, limit):
    made = x.copy()
    for c in range(x.shape[1]):
        t = 0
        while t < len(x):
            if np.isnan(x[t, c]):
                end = t
                while end < len(x) and np.isnan(x[end, c]):
                    end += 1
                if t > 0 and end < len(x) and end - t <= limit:
                    for i in range(t, end):
                        made[i, c] = x[t - 1, c] + (x[end, c] - x[t - 1, c]) * (i - t + 1) / (end - t + 1)
                t = end
            t += 1
    return made


def filled_by_hand(x, limit):
    made = x.copy()
    for c in range(x.shape[1]):
        for t in range(len(x)):
            ahead = [i for i in range(t, min(len(x), t + limit + 1)) if not np.isnan(x[i, c])]
            behind = [i for i in range(max(0, t - limit), t + 1) if not np.isnan(x[i, c])]
            made[t, c] = x[ahead[0], c] if ahead else x[behind[-1], c] if behind else np.nan
    return made


@pytest.mark.parametrize("limit", [0, 1, 3, 50])
def test_gaps_are_filled_as_loops_would(limit):
    rng = np.random.default_rng(limit)
    x = rng.normal(size=(60, 3))
    x[rng.random((60, 3)) < 0.4] = np.nan
    x[20:29, 0], x[:, 2] = np.nan, np.nan
    np.testing.assert_allclose(bridge(x, limit), bridged_by_hand(x, limit), rtol=1e-12)
    np.testing.assert_array_equal(fill_back(x, limit), filled_by_hand(x, limit))


def test_units_are_brought_together_or_refused():
    assert factor("mV", "uV", "") == pytest.approx(1000)
    assert factor("µV", "uV", "") == 1 and factor("m/s^2", "m/s^2", "") == 1
    assert factor("nS", "µS", "") == pytest.approx(1e-3) and factor("g", "mg", "") == pytest.approx(1e3)
    for pair in (("mV", "g"), ("mmHg", "Hg"), ("", "uV"), ("DegC", "degF")):
        with pytest.raises(DataError, match=r"x: is in .* is expected"):
            factor(*pair, "x")


def test_a_recording_in_units_of_its_own_deviation_wherever_it_is_cut(monkeypatch):
    x = np.random.default_rng(2).normal([5.0, -3.0, 7.0], [0.01, 40.0, 0.0], size=(1000, 3))
    x[[0, 499, 730], [0, 1, 1]] = np.nan, np.inf, np.nan  # a moment with one of these does not count
    good = np.delete(x, [0, 499, 730], axis=0)
    std = np.array([good[:, 0].std(), good[:, 1].std(), 1.0])  # what does not move becomes zeros
    want = (x - good.mean(axis=0)) / std
    monkeypatch.setattr(standardise, "BLOCK", 64)
    signal = standardise.Standardised(x)
    assert len(signal) == 1000
    for start, stop in ((0, 1000), (63, 65), (490, 505), (999, 1000)):
        np.testing.assert_allclose(signal[start:stop], want[start:stop], rtol=1e-9, atol=1e-9)
    assert np.isnan(standardise.Standardised(np.full((70, 2), np.nan))[3:9]).all()
