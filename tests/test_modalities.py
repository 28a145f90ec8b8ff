"""Modalities: which moments they pick, what they make of them, what they refuse."""

import math

import numpy as np
import pytest
import torch

from mmssl.errors import ConfigError, DataError
from mmssl.modalities import Audio, Image, Mel, Motion, Series, Video, input_shape_of
from mmssl.rng import Rng
from mmssl.transforms import Crop, cut, inception_box, rotations, take, window_indices
from mmssl.types import Clip, View

RNG = Rng((0, "test"))


def numbered(frames, height=8, width=8, rate=10.0):
    """A clip whose frame t is all of value t."""
    return Clip(torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(-1, height, width, 3), rate)


def moments(video, clip, start=0.0, rng=None):
    return video.transform(clip, start, rng)[:, 0, 0, 0].tolist()


def small(**settings):
    return Video(**{"frames": 4, "size": 8, "rate": 10.0, "patch": [2, 4, 4], **settings})


@pytest.mark.parametrize(("length", "first", "count", "stride", "want"), [
    (10, 2, 3, 2, [2, 4, 6]), (10, 6, 3, 2, [5, 7, 9]), (5, 5, 5, 1, [0, 1, 2, 3, 4]), (3, 0, 5, 1, [0, 1, 2, 0, 1]),
    (3, 1, 4, 1, [1, 2, 0, 1]), (4, 0, 4, 2, [0, 2, 0, 2])])
def test_short_samples_are_looped_and_rounding_never_wraps_long_ones(length, first, count, stride, want):
    index = window_indices(length, first, count, stride)
    assert index.tolist() == want
    x = torch.arange(3 * length).view(3, length)
    assert torch.equal(take(x, index, axis=1), x[:, want]) and torch.equal(take(x.T, index), x.T[want])


def test_evenly_spaced_steps_are_taken_without_a_copy():
    x = torch.arange(20)
    for index, shares in (([3, 5, 7], True), ([4], True), ([3, 5, 6], False), ([2, 2], False), ([5, 3, 1], False)):
        got = take(x, torch.tensor(index))
        assert got.tolist() == index
        assert (got.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == shares


def test_video_picks_frames_by_time():
    assert moments(small(), numbered(20)) == [0, 1, 2, 3]
    assert moments(small(), numbered(40, rate=30.0), start=0.5) == [15, 18, 21, 24]
    assert moments(small(), numbered(40, rate=29.97), start=0.5) == [15, 18, 21, 24]
    assert moments(small(), numbered(3)) == [0, 1, 2, 0]
    assert moments(small(resample="nearest"), numbered(40, rate=24.0), start=0.5) == [12, 14, 17, 19]
    assert moments(small(resample="nearest"), numbered(40, rate=24.0), start=1.6) == [32, 34, 37, 39]
    assert moments(small(resample="nearest"), numbered(20, rate=4.0), start=0.5) == [2, 2, 3, 3]
    assert moments(small(resample="nearest"), numbered(1, rate=4.0), start=0.5) == [0, 0, 0, 0]
    for have, step in ((25.0, 2), (24.0, 2), (29.97, 3), (8.0, 1)):  # the ratio to 10, rounded down; NTSC counts as 30
        assert moments(small(resample="stride"), numbered(40, rate=have), start=0.4) == [
            round(0.4 * have) + step * i for i in range(4)]
    with pytest.raises(DataError, match=r"24 frames per second, no whole multiple.*10.*resample: nearest"):
        small().transform(numbered(40, rate=24.0), 0.0, None)
    with pytest.raises(DataError, match="no frames"):
        small().transform(numbered(0), 0.0, None)
    with pytest.raises(DataError, match=r"got float32 \(4, 8, 8, 3\)"):
        small().transform(Clip(torch.zeros(4, 8, 8, 3), 10.0), 0.0, None)


def test_video_is_resized_to_its_shorter_side_and_cut_in_the_middle():
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 24, 36, 3), generator=g, dtype=torch.uint8)
    got = small().transform(Clip(frames, 10.0), 0.0, None)
    taps = {d: (1 - abs(d) / 3) / 3 for d in (-2, -1, 0, 1, 2)}  # a third of the size: a triangle three pixels wide
    for y, x in ((1, 0), (3, 3), (6, 7)):
        row, column = 3 * y + 1, 3 * (x + 2) + 1  # twelve columns after resizing; two are cut on each side
        want = sum(taps[i] * taps[j] * frames[2, row + i, column + j, 1].item() for i in taps for j in taps)
        assert abs(got[2, y, x, 1].item() - want) <= 1


def test_training_crops_vary_with_the_generator_alone():
    g = torch.Generator().manual_seed(0)
    clip = Clip(torch.randint(0, 256, (4, 20, 12, 3), generator=g, dtype=torch.uint8), 10.0)
    video = small(size=12)
    found = {int(next(t for t in range(9) if torch.equal(cut, clip.data[:, t:t + 12])))
             for cut in (video.transform(clip, 0.0, RNG.at(i)) for i in range(60))}
    assert found == set(range(9))
    boxed = small(crop=Crop("inception", area=(0.3, 0.6)))
    a, b, c = (boxed.transform(clip, 0.0, rng) for rng in (RNG.at(1), RNG.at(1), RNG.at(2)))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_boxes_keep_to_their_ranges_or_take_the_whole_picture():
    rng = RNG.numpy()
    boxes = np.array([inception_box(160, 150, [0.2, 0.4], [0.5, 2.0], rng) for _ in range(500)])
    top, left, h, w = boxes.T
    share, aspect = h * w / 24000, w / h
    assert (top >= 0).all() and (top + h <= 160).all() and (left >= 0).all() and (left + w <= 150).all()
    assert share.min() > 0.19 and share.max() < 0.41 and share.mean() == pytest.approx(0.3, abs=0.02)
    # Aspects are drawn evenly, not by their logarithm.
    assert aspect.min() > 0.48 and aspect.max() < 2.05 and aspect.mean() == pytest.approx(1.25, abs=0.06)
    assert inception_box(10, 100, [0.9, 1.0], [0.5, 2.0], rng) == (0, 0, 10, 100)


def test_mirroring_is_off_unless_asked_for():
    row = torch.arange(8, dtype=torch.uint8)[None, None, :, None].expand(4, 8, 8, 3)

    def turned(video):
        return [video.transform(Clip(row, 10.0), 0.0, RNG.at(i))[0, 0, 0, 0].item() == 7 for i in range(200)]
    assert not any(turned(small())) and 70 < sum(turned(small(flip=0.5))) < 130
    assert moments(small(flip=1.0), Clip(row, 10.0)) == [0] * 4


def test_pixels_become_minus_one_to_one():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 1, 3)
    assert torch.allclose(small().on_device(x, None).flatten(), torch.tensor([-1.0, -0.6, 1.0]), atol=1e-6)


def test_motion_is_the_change_of_brightness_and_nothing_else():
    g = torch.Generator().manual_seed(0)
    clip = Clip(torch.randint(60, 120, (9, 8, 8, 3), generator=g, dtype=torch.uint8), 10.0)
    motion = Motion(frames=4, size=8, rate=10.0, patch=[2, 4, 4], flip=0.5)
    shipped = motion.transform(clip, 0.2, RNG)
    assert torch.equal(shipped, small(flip=0.5).transform(clip, 0.2, RNG))
    wide = Clip(torch.cat([clip.data, clip.data + 1], dim=2), 10.0)
    assert torch.equal(motion.transform_view(wide, 0.2, View(crops=3)), clip.data[2:6])
    got, brightness = motion.on_device(shipped[None], None)[0], shipped.double().mean(-1)
    change = [torch.zeros(8, 8).double(), *(brightness[t] - brightness[t - 1] for t in (1, 2, 3))]
    size = math.sqrt(sum(float(v) ** 2 for frame in change for v in frame.flatten()) / 256)
    assert torch.allclose(got.double(), torch.stack(change) / size, atol=1e-5) and got.dtype == torch.float32
    brighter = motion.on_device(torch.stack([shipped + 100, shipped]), None)
    assert torch.equal(brighter[0], brighter[1])  # a lamp more changes nothing
    assert (motion.on_device(torch.full((1, 4, 8, 8, 3), 255, dtype=torch.uint8), None) == 0).all()
    assert tuple(got.shape) == input_shape_of(motion) and motion.tokenizer(4).grid == (2, 2, 2)


def test_an_image_is_repeated_over_one_patch_of_time():
    image = Image(size=8, patch=[4, 4, 4])
    pixels = image.transform(Clip(torch.full((1, 8, 8, 3), 7, dtype=torch.uint8)), 0.0, None)
    assert pixels.shape == image.shape and image.on_device(pixels[None], None).shape == (1, *input_shape_of(image))
    assert image.tokenizer(6).grid == (1, 2, 2)
    assert torch.equal(pixels, image.transform(Clip(pixels), 0.0, None))


# Sound ----------------------------------------------------------------------------------------------------------------

def ramp(count, rate):
    """Two channels whose mean at sample t is t."""
    t = torch.arange(float(count))
    return Clip(torch.stack([t + 1, t - 1]), rate)


def test_sound_is_mixed_cut_and_looped():
    audio = Audio(rate=100, seconds=0.05, patch=1)
    assert audio.transform(ramp(50, 100.0), 0.1, None).tolist() == [10, 11, 12, 13, 14]
    assert audio.transform(ramp(3, 100.0), 0.0, RNG).tolist() == [0, 1, 2, 0, 1]
    assert Audio(100, 0.05, 1, "decimate").transform(ramp(50, 200.0), 0.1, None).tolist() == [20, 22, 24, 26, 28]
    with pytest.raises(DataError, match=r"200 Hz.*expects 100 Hz.*`resample: sinc` or `resample: decimate`"):
        audio.transform(ramp(50, 200.0), 0.0, None)
    with pytest.raises(DataError, match=r"`resample: sinc` for this"):
        Audio(100, 0.05, 1, "decimate").transform(ramp(50, 150.0), 0.0, None)


def test_resampled_sound_keeps_its_pitch_and_drops_what_does_not_fit():
    time = torch.arange(48000) / 48000

    def at_8000(hertz):
        wave = torch.sin(2 * math.pi * hertz * time)[None]
        return Audio(8000, 0.5, 1, "sinc").transform(Clip(wave, 48000.0), 0.25, None)
    want = torch.sin(2 * math.pi * 1000 * (0.25 + torch.arange(4000) / 8000))
    assert (at_8000(1000.0) - want)[100:-100].abs().max() < 1e-2
    assert at_8000(6000.0)[100:-100].abs().max() < 1e-2


def test_noise_has_the_level_it_was_told_and_is_for_training():
    wave = Clip(torch.full((1, 20000), -0.5), 1000.0)
    noisy = Audio(1000, 20.0, 100, noise=0.01)
    assert noisy.transform(wave, 0.0, RNG).std().item() == pytest.approx(0.005, rel=0.05)
    assert (noisy.transform(wave, 0.0, None) == -0.5).all()
    assert (Audio(1000, 20.0).transform(wave, 0.0, RNG) == -0.5).all()


def mel_by_hand(wave, rate, window, hop, mels, low, high):
    """Frames, Hann window, discrete Fourier transform, triangles between points even in mel: one number at a time."""
    def mel(f):
        return 2595 * math.log10(1 + f / 700)

    points = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(mel(low), mel(high), mels + 2)]
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    frames = math.ceil(len(wave) / hop)
    padded = np.concatenate([wave, np.zeros(window)])
    out = np.zeros((frames, mels))
    for t in range(frames):
        magnitude = np.abs(np.fft.rfft(padded[t * hop:t * hop + window] * hann))
        for m, (a, b, c) in enumerate(zip(points, points[1:], points[2:], strict=False)):
            for k, size in enumerate(magnitude):
                f = k * rate / window
                out[t, m] += size * max(0.0, min((f - a) / (b - a), (c - f) / (c - b)))
    return np.log(1 + 10000 * out)


@pytest.mark.parametrize("level", ["range", "bands"])
def test_mel_is_its_formula(level):
    mel = Mel(level=level, rate=8000, seconds=0.1, window=128, hop=64, mels=10, band=[80.0, 3800.0], patch=[4, 5])
    waves = torch.randn(2, 800, generator=torch.Generator().manual_seed(0))
    got = mel.on_device(waves, None)
    for wave, row in zip(waves, got, strict=True):
        want = mel_by_hand(wave.double().numpy(), 8000, 128, 64, 10, 80.0, 3800.0)
        if level == "range":
            want = (want - want.min()) / (want.max() - want.min())
        else:
            want = np.stack([band - band.sum() / 13 for band in want.T], axis=1)
            want /= math.sqrt(sum(x * x for x in want.flatten()) / 130)
        assert np.abs(row.numpy() - want).max() < 1e-4
    assert tuple(got.shape[1:]) == input_shape_of(mel) == (13, 10) and mel.tokenizer(4).grid == (3, 2)
    assert (mel.on_device(torch.zeros(1, 800), None) == 0).all()
    assert Mel().tokenizer(4).grid == (9, 16)


# Series ---------------------------------------------------------------------------------------------------------------

def test_series_are_cut_in_the_units_of_the_file_and_standardised_by_channel_on_the_device():
    series = Series(2, 10.0, 0.3, patch=1, mean=[1.0, -1.0], std=[2.0, 4.0])
    x = torch.stack([torch.arange(9.0), -torch.arange(9.0)])
    window = series.transform(Clip(x.short(), 10.0), 0.4, RNG)
    assert window.tolist() == [[4, 5, 6], [-4, -5, -6]] and window.dtype == torch.float32
    seen = series.on_device(torch.stack([window, window + 2]), None)
    assert seen.tolist() == [[[1.5, 2.0, 2.5], [-0.75, -1.0, -1.25]], [[2.5, 3.0, 3.5], [-0.25, -0.5, -0.75]]]


def test_series_vary_in_training_as_told():
    flat, rng = torch.ones(200, 3, 500), RNG.for_rows(torch.arange(200))
    noise = Series(3, 10.0, 50.0, jitter=0.1, mean=[1.0] * 3, std=[2.0] * 3).on_device(flat, rng)
    assert noise.std(dim=(0, 2)).tolist() == pytest.approx([0.1] * 3, rel=0.02)  # in units of what encoders see
    assert noise.mean(dim=(0, 2)).tolist() == pytest.approx([0.0] * 3, abs=0.002)
    scaling = Series(3, 10.0, 50.0, scale=0.2)
    factors = scaling.on_device(flat, rng)
    assert (factors == factors[:, :, :1]).all()
    assert factors[:, :, 0].std(dim=0).tolist() == pytest.approx([0.2] * 3, rel=0.2)
    assert abs(torch.corrcoef(factors[:, :, 0].T)).fill_diagonal_(0).max() < 0.25  # each channel by itself
    assert torch.equal(scaling.on_device(flat, None), flat)


def test_what_a_series_is_varied_by_depends_on_its_global_row_alone():
    series, x = Series(3, 20.0, 2.0, jitter=0.1, scale=0.2, rotate=20.0, mean=[0.5, 0, 1]), torch.randn(6, 3, 40)
    whole = series.on_device(x, RNG.for_rows(torch.arange(6)))
    half = series.on_device(x[3:], RNG.for_rows(torch.arange(3, 6)))
    torch.testing.assert_close(half, whole[3:])
    again, other = (series.on_device(x, RNG.at(*more).for_rows(torch.arange(6))) for more in ((), ("later",)))
    assert torch.equal(again, whole) and not torch.allclose(other, whole, atol=0.1)


def test_series_refuse_what_they_were_not_told_of():
    series, x = Series(2, 10.0, 0.3, patch=1), torch.zeros(2, 9)
    with pytest.raises(DataError, match=r"20.0 Hz, but the recipe expects 10 Hz"):
        series.transform(Clip(x, 20.0), 0.0, None)
    with pytest.raises(DataError, match=r"expected \(2, T\), got \(3, 9\)"):
        series.transform(Clip(torch.zeros(3, 9), 10.0), 0.0, None)
    x[1, 2] = math.nan
    with pytest.raises(DataError, match=r"channels \[1\]"):
        series.transform(Clip(x, 10.0), 0.0, None)
    with pytest.raises(ConfigError, match="mean has 1 values for 2 channels"):
        Series(2, 10.0, 0.3, mean=[0.0])
    with pytest.raises(ConfigError, match=r"std .* must be positive"):
        Series(2, 10.0, 0.3, std=[1.0, 0.0])
    with pytest.raises(ConfigError, match="patch"):
        Series(2, 10.0, 0.3, patch=4).tokenizer(8)


def test_a_sensor_worn_askew_keeps_lengths_and_turns_by_the_asked_amount():
    x, rng = torch.randn(400, 3, 40), RNG.for_rows(torch.arange(400))
    series = Series(3, 20, 2, rotate=20.0, mean=[0.0] * 3)
    seen = series.on_device(x, rng)
    assert torch.allclose(seen.norm(dim=1), x.norm(dim=1), atol=1e-4) and torch.equal(series.on_device(x, None), x)
    turns = seen @ torch.linalg.pinv(x)
    assert torch.allclose(turns @ turns.mT, torch.eye(3), atol=1e-4) and (torch.linalg.det(turns) > 0.99).all()
    cosine = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    assert 17 < cosine.acos().rad2deg().square().mean().sqrt() < 23  # root mean square of 20 standard normal numbers
    shifted = Series(3, 20, 2, rotate=20.0, mean=[5.0, 0.0, 0.0], std=[2.0, 1.0, 1.0])
    torch.testing.assert_close(shifted.on_device(x, rng)[:, 0], (seen[:, 0] - 5) / 2)  # turned before it is normalised
    with pytest.raises(ConfigError, match="3 channels"):
        Series(1, 20, 2, rotate=5.0)


def test_turns_are_those_of_the_matrix_exponential():
    axes, angles = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, dtype=torch.float64) * 2
    for axis, angle, found in zip(axes, angles, rotations(axes, angles), strict=True):
        x, y, z = (axis / axis.norm() * angle).tolist()
        want = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
        torch.testing.assert_close(found, want)


def test_cut_takes_the_steps_that_window_indices_lists():
    x = torch.arange(40).reshape(2, 20)
    for first, count, stride in [(0, 20, 1), (5, 6, 2), (-3, 4, 1), (18, 7, 1), (15, 4, 3), (19, 30, 1), (3, 9, 3)]:
        for axis, length in ((1, 20), (0, 2)):
            listed = x.index_select(axis, window_indices(length, first, count, stride))
            assert torch.equal(cut(x, first, count, stride, axis), listed), (first, count, stride, axis)
