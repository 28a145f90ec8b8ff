"""Short films of a handwritten digit that moves over a textured background. No paper: ours."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from mmssl.rng import Rng

SIZE = 48
FRAMES = 16
RATE = 10
#: Step (across, down) of each direction, by its class number.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
#: Pixels that the centre travels on each moving axis in the whole film, by the class number of the speed.
TRAVEL = (5.0, 14.0)
#: Where the centre starts on an axis, by column or row of the 3 x 3 grid; jitter stays below half their distance.
CELLS = (13.5, 23.5, 33.5)
#: Distance of two pixels of the 8 x 8 digit, in pixels of the film.
SCALE = 3.8


@dataclass(frozen=True)
class Motion:
    """What the digit does, as class numbers: direction of 4, speed of 2, start cell of 9 (row * 3 + column)."""

    direction: int
    speed: int
    start: int


@functools.cache
def motions() -> tuple[Motion, ...]:
    """The 24 motions: 4 directions, 2 speeds, 3 lanes; the digit starts at the side that it leaves behind.

    So few that clips of a batch often share one, and only the digit then tells them apart.
    """
    good = []
    for direction, step in enumerate(STEPS):
        cells = [row * 3 + column for row in range(3) for column in range(3)
                 if all(s == 0 or cell - 1 == -s for s, cell in zip(step, (column, row)))]
        good += [Motion(direction, speed, cell) for speed in range(len(TRAVEL)) for cell in cells]
    return tuple(good)


def path(motion: Motion, rng: Rng) -> np.ndarray:
    """Centre of the digit in each frame, (FRAMES, 2) float: across and down, in pixels."""
    draw = rng.at("path").numpy()
    start = np.array([CELLS[motion.start % 3], CELLS[motion.start // 3]]) + draw.uniform(-2.0, 2.0, 2)
    travel = TRAVEL[motion.speed] * draw.uniform(0.9, 1.1)
    return start + np.linspace(0, 1, FRAMES)[:, None] * travel * np.array(STEPS[motion.direction])


def weights(centres: np.ndarray, scale: float, cells: int = 8, size: int = SIZE) -> np.ndarray:
    """Interpolation weights (T, size, cells) that draw `cells` samples around `centres` (T,), `scale` pixels apart.

    The kernel is Catmull-Rom's cubic, so positions between pixels are exact and the enlarged digit stays smooth.
    """
    place = (np.arange(size)[None, :, None] - centres[:, None, None]) / scale + (cells - 1) / 2
    x = np.abs(place - np.arange(cells))
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def hue(turn: float, saturation: float, value: float) -> np.ndarray:
    """A colour (3,) in [0, 1]; `turn` in [0, 1) goes once around the colour circle."""
    wheel = np.clip(np.abs((turn * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * wheel)


def background(rng: Rng) -> np.ndarray:
    """A dim texture (SIZE, SIZE, 3) in [0, 1]: smooth noise of two grains between two random dark colours."""
    draw = rng.at("background").numpy()
    blend = np.zeros((SIZE, SIZE))
    for cells, strength in ((5, 0.6), (14, 0.4)):
        grid = draw.uniform(0, 1, (cells, cells))
        spread = weights(np.array([(SIZE - 1) / 2]), (SIZE - 1) / (cells - 3), cells)[0]
        blend += strength * spread @ grid @ spread.T
    dark, light = hue(draw.uniform(), 0.6, draw.uniform(0.05, 0.15)), hue(draw.uniform(), 0.6, draw.uniform(0.25, 0.4))
    return dark + np.clip(blend, 0, 1)[..., None] * (light - dark)


def film(image: np.ndarray, motion: Motion, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Film one digit.

    Args:
        image: (8, 8) float, 0 (paper) to 16 (ink), as scikit-learn ships it.
        motion: what the digit does.
        rng: place of this sample; draws jitter of start, travel and size, and the colours and texture.

    Returns:
        frames (FRAMES, SIZE, SIZE, 3) uint8 and the path of the centre (FRAMES, 2), across and down, in pixels.
    """
    centres, draw = path(motion, rng), rng.at("ink").numpy()
    scale = SCALE * draw.uniform(0.93, 1.07)
    down, across = weights(centres[:, 1], scale), weights(centres[:, 0], scale)
    ink = np.clip(down @ (image / 16.0) @ across.transpose(0, 2, 1), 0, 1)
    ink = np.clip((ink - 0.12) / 0.78, 0, 1)[..., None]  # thin strokes of a pale pen become as bright as bold ones
    colour, paper = hue(draw.uniform(), draw.uniform(0, 0.45), draw.uniform(0.85, 1.0)), background(rng)
    return np.rint((paper + ink * (colour - paper)) * 255).astype(np.uint8), centres
