"""Sound at rates that have nothing in common: the same filter, without the gigabytes."""

import math

import pytest
import torch
import torchaudio.functional

from mmssl.transforms import sound, sound_window


@pytest.mark.parametrize("have, want", [(11025, 16000), (44100, 16000), (16000, 44100), (48000, 1000)])
def test_step_by_step_is_torchaudios_filter(monkeypatch, have, want):
    wave = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    count = 9000 * want // have
    usual = sound_window(wave, have, want, 0.0, count, "sinc")
    window = wave[:, :math.ceil(count * have / want)].mean(dim=0)
    assert torch.equal(usual, torchaudio.functional.resample(window, have, want)[:count])
    monkeypatch.setattr(sound, "KERNEL_LIMIT", 1000)  # in many blocks
    assert (sound_window(wave, have, want, 0.0, count, "sinc") - usual).abs().max() < 3e-4


@pytest.mark.parametrize("have", [44101, 11127, 22255])
def test_odd_rates_keep_their_pitch_and_take_no_gigabytes(monkeypatch, have):
    """torchaudio would compute up to 16,000 x 44,101 weights."""
    monkeypatch.setattr(torchaudio.functional, "resample", lambda *_: pytest.fail("torchaudio computes all weights"))
    wave = torch.sin(2 * math.pi * 1000 * torch.arange(have, dtype=torch.float64) / have).float()[None]
    heard = sound_window(wave, have, 16000, 0.25, 8000, "sinc")
    begin = round(0.25 * have) / have
    want = torch.sin(2 * math.pi * 1000 * (begin + torch.arange(8000, dtype=torch.float64) / 16000))
    assert heard.shape == (8000,) and (heard - want)[100:-100].abs().max() < 1e-2
