"""The sound of a moving digit: a voice with its timbre, whose pitch and level follow the motion. No paper: ours."""

from __future__ import annotations

import numpy as np

from mmssl.data.demo.film import FRAMES, SIZE
from mmssl.data.demo.film import RATE as FILM_RATE
from mmssl.rng import Rng

RATE = 16000
SAMPLES = FRAMES * RATE // FILM_RATE
HARMONICS = 48
#: Samples in 10 ms.
BLOCK = 160
#: Resonances in Hz: a digit has one of the five low ones and one of the two high ones.
LOW, HIGH = (420.0, 720.0, 1150.0, 1750.0, 2600.0), (3700.0, 5600.0)
#: Beats per second of the loudness, by the class number of the speed.
BEATS = (4.0, 9.0)


def timbre(digit: int, frequency: np.ndarray, stretch: float = 1.0) -> np.ndarray:
    """Amplitude of a partial at `frequency` Hz, any shape: the digit's two resonances above a faint fundamental."""
    total = 0.25 * np.exp(-frequency / 350.0)
    for centre, strength in ((LOW[digit % 5] * stretch, 1.0), (HIGH[digit // 5] * stretch, 0.8)):
        total = total + strength * np.exp(-0.5 * ((frequency - centre) / (90.0 + 0.09 * centre)) ** 2)
    return total


def beats(digit: int, rate: float, offset: float, seconds: np.ndarray) -> np.ndarray:
    """Loudness in [0, 1] of repeated strokes: even digits are plucked (sudden, then fading), odd ones swell."""
    phase = (seconds * rate + offset) % 1.0
    if digit % 2 == 0:
        return np.minimum(phase / 0.04, 1.0) * np.exp(-2.5 * phase)
    return np.minimum((1 - phase) / 0.04, 1.0) * np.exp(-2.5 * (1 - phase))


def sing(digit: int, pitch: np.ndarray, stretch: float, phases: np.ndarray) -> np.ndarray:
    """The steady voice of a digit: partials of a gliding pitch, each as strong as the timbre has it there.

    Args:
        digit: 0 to 9.
        pitch: (SAMPLES,) Hz.
        stretch: factor on the resonances.
        phases: (HARMONICS,) complex of modulus 1, where each partial starts.

    Returns:
        (SAMPLES,) float32 of any scale.
    """
    numbers = np.arange(1, HARMONICS + 1)[:, None]
    partials = numbers * np.append(pitch[::BLOCK], pitch[-1])  # the timbre changes slowly: its value at every 10 ms,
    strength = (timbre(digit, partials, stretch) * (partials < 0.46 * RATE)).astype(np.float32)
    after = np.arange(BLOCK, dtype=np.float32) / BLOCK  # and straight lines between
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / RATE).astype(np.complex64)
    voice, wave = np.zeros((SAMPLES // BLOCK, BLOCK), np.float32), np.ones(SAMPLES, np.complex64)
    for row, phase in zip(strength, phases.astype(np.complex64)):
        wave *= turn
        if row.max() > 0.01:
            gain = row[:-1, None] + np.diff(row)[:, None] * after
            voice += gain * (wave * phase).real.reshape(voice.shape)
    return voice.ravel()


def sound(digit: int, speed: int, centres: np.ndarray, rng: Rng) -> np.ndarray:
    """The sound of one film.

    Higher in the picture is higher in pitch (1.5 octaves in all), further right is louder (24 dB in all, against a
    noise floor that stays), faster beats faster. Nuisance: base pitch, resonances, phases, gain, noise.

    Args:
        digit: 0 to 9.
        speed: class number of the speed.
        centres: (FRAMES, 2) float, across and down in pixels.
        rng: place of this sample.

    Returns:
        (1, SAMPLES) float32 in [-1, 1] at `RATE` Hz.
    """
    draw, seconds = rng.at("sound").numpy(), np.arange(SAMPLES) / RATE
    across, down = (np.interp(seconds * FILM_RATE, np.arange(FRAMES), c) / (SIZE - 1) for c in centres.T)
    pitch = 115.0 * 2.0 ** (1.5 * (1 - down)) * draw.uniform(0.96, 1.04)
    stretch, phases = draw.uniform(0.97, 1.03), np.exp(2j * np.pi * draw.uniform(size=HARMONICS))
    voice = sing(digit, pitch, stretch, phases)
    level = 10.0 ** (24.0 * (np.clip(across, 0, 1) - 1) / 20)
    rate = BEATS[speed] * draw.uniform(0.93, 1.07)
    voice = voice / np.sqrt((voice**2).mean()) * level * beats(digit, rate, draw.uniform(), seconds)
    mixed = voice + 0.004 * draw.standard_normal(SAMPLES, np.float32)
    gain = 0.06 * 10.0 ** (draw.uniform(-3, 3) / 20)
    return np.clip(mixed * gain, -1, 1).astype(np.float32)[None]
