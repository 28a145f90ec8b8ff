"""A short film and a chord, alike in every test of media files."""

import numpy as np


def film(frames=20, height=48, width=64):
    """Smooth moving stripes: compress well, and every frame differs."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([128 + 100 * np.sin((x + 3 * t) / 9), 128 + 100 * np.cos((y - 2 * t) / 7), 10.0 * t], -1).clip(
        0, 255).astype(np.uint8)


def sound(channels=2, samples=16001):
    """One tone for each channel, (channels, samples) in [-0.8, 0.8] at 16 kHz."""
    t = np.arange(samples) / 16000
    return np.stack([0.8 * np.sin(2 * np.pi * 220 * (c + 1) * t + c) for c in range(channels)])
