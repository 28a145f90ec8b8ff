"""The embedded clips: captions, film and sound say the same; splits share nothing; same seed, same bytes."""

import hashlib

import numpy as np
import pytest

from mmssl.data import codecs
from mmssl.data.demo import captions, clips, film, sound
from mmssl.data.demo.sheet import contact_sheet
from mmssl.data.shards import ShardIndex, read_record, split_shards
from mmssl.errors import StorageError
from mmssl.rng import Rng

SMALL = {"train": 40, "val": 4, "test": 6}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    clips.build_clips(root, seed=3, counts=SMALL)
    return root


def digests(root):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}


def records(root, split):
    return [(index.key(i), read_record(shard, index, i)) for shard in split_shards(root, split)
            for index in [ShardIndex.load(shard)] for i in range(len(index))]


def meaning_by_hand(text):
    """Digit, direction, speed and start of a caption from its words alone, in any order of the sentence."""
    words = text.split()
    digit = next(n for n, word in enumerate(captions.DIGITS) if word in words)
    across = ("rightward" in words) - ("leftward" in words)
    down = ("downward" in words) - ("upward" in words)
    speed = int("quickly" in words or "fast" in words)
    column = 1 - ("left" in words) + ("right" in words)
    row = 1 - ("top" in words) + ("bottom" in words)
    return digit, film.STEPS.index((across, down)), speed, 3 * row + column


def test_same_seed_same_bytes_other_seed_other_bytes(small, tmp_path):
    clips.build_clips(tmp_path / "again", seed=3, counts=SMALL)
    clips.build_clips(tmp_path / "other", seed=4, counts=SMALL)
    first, again, other = digests(small), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert first == again
    assert first["train-000000.tar"] != other["train-000000.tar"]


def test_a_clip_can_be_made_alone_and_is_the_one_in_the_shard(small):
    files = dict(records(small, "train"))["train-00017"]
    assert files == clips.record(clips.sample("train", 17, seed=3))


def test_stored_clip_is_the_drawn_one_up_to_its_codec(small):
    made, files = clips.sample("test", 2, seed=3), dict(records(small, "test"))["test-00002"]
    video, audio = codecs.decode("mp4", files["video.mp4"]), codecs.decode("flac", files["audio.flac"])
    assert video.rate == 10 and video.data.shape == (16, 48, 48, 3)
    assert audio.rate == 16000 and audio.seconds == video.seconds == 1.6
    assert np.abs(video.data.numpy().astype(float) - made.frames).mean() < 6
    assert np.abs(audio.data.numpy() - made.sound).max() <= 2**-15
    assert codecs.decode("json", files["text.json"]).data == made.captions


def test_every_caption_tells_the_labels_in_known_words():
    words, seen = set(captions.vocabulary()), set()
    for index in range(400):
        what = clips.plan("train", index)
        texts = captions.captions(what.digit, what.motion, Rng((index,)))
        assert len(set(texts)) == 5
        for text in texts:
            assert len(text.split()) <= 16 and set(text.split()) <= words
            assert meaning_by_hand(text) == (what.digit, what.motion.direction, what.motion.speed, what.motion.start)
            seen |= set(text.split())
    assert captions.vocabulary()[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert seen == words - {"<pad>", "<bos>", "<eos>", "<unk>", "middle"}  # no motion starts in the middle
    assert len(captions.vocabulary()) == len(words)


def test_article_fits_the_digit():
    texts = [t for i in range(50) for t in captions.captions(8, film.motions()[0], Rng((i,)))]
    assert not any(" a eight" in f" {t}" for t in texts) and any("an eight" in t for t in texts)
    assert not any("an handwritten" in t for t in texts)


def test_held_out_clips_differ_in_meaning_and_share_no_image():
    plans = {split: [clips.plan(split, i) for i in range(n)] for split, n in clips.COUNTS.items()}
    assert clips.COUNTS["test"] == 200
    for split in ("val", "test"):
        assert len({(p.digit, p.motion) for p in plans[split]}) == 200
        assert np.bincount([p.digit for p in plans[split]]).tolist() == [20] * 10
        assert all(p.missing is None for p in plans[split])
    images = {split: {p.image for p in rows} for split, rows in plans.items()}
    assert not images["train"] & images["test"] and not images["train"] & images["val"]
    assert not images["val"] & images["test"]
    for rows in plans.values():
        assert all(clips.digits()[1][p.image] == p.digit for p in rows)


def test_shares_of_missing_modalities():
    missing = [clips.plan("train", i).missing for i in range(2000)]
    for name, share in clips.MISSING.items():
        assert abs(missing.count(name) / 2000 - share) < 0.025
    index = missing.index("audio")
    assert set(clips.record(clips.sample("train", index))) == {"video.mp4", "text.json", "labels.json"}


def test_motions_start_at_the_side_they_leave():
    assert len(film.motions()) == 24 == len(set(film.motions()))
    for motion in film.motions():
        for step, cell in zip(film.STEPS[motion.direction], (motion.start % 3, motion.start // 3)):
            assert step == 0 or cell == 1 - step


def test_bright_ink_moves_as_the_motion_says():
    """The centre of the light in the frames starts in the cell and travels in the direction and at the speed."""
    image = clips.digits()[0][0]
    for number, motion in enumerate(film.motions()):
        frames, _ = film.film(image, motion, Rng((number,)))
        light = np.clip(frames.astype(float).max(-1) - 130, 0, None)
        ticks = np.arange(film.SIZE)
        centres = np.array([[(f.sum(0) @ ticks) / f.sum(), (f.sum(1) @ ticks) / f.sum()] for f in light])
        cell = (motion.start % 3, motion.start // 3)
        for axis in (0, 1):
            assert np.argmin(np.abs(np.array(film.CELLS) - centres[0, axis])) == cell[axis]
            moved, step = centres[-1, axis] - centres[0, axis], film.STEPS[motion.direction][axis]
            low, high = (3.0, 7) if motion.speed == 0 else (8, 17)
            assert abs(moved) < 1.5 if step == 0 else low < moved * step < high


def test_interpolation_weights_against_a_loop():
    weights = film.weights(np.array([20.3]), 3.0)[0]
    for pixel in range(film.SIZE):
        place = (pixel - 20.3) / 3.0 + 3.5
        for cell in range(8):
            x = abs(place - cell)
            want = 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0
            assert weights[pixel, cell] == pytest.approx(want, abs=1e-12)


def band_levels(wave):
    power = np.abs(np.fft.rfft(wave[0] * np.hanning(wave.shape[1]))) ** 2
    hertz = np.fft.rfftfreq(wave.shape[1], 1 / sound.RATE)
    edges = np.geomspace(250, 7500, 41)
    return np.log([power[(hertz >= a) & (hertz < b)].sum() for a, b in zip(edges, edges[1:])])


def test_timbre_tells_the_digit_whatever_the_motion():
    """Nearest mean spectrum of other clips names the digit: pitch, level and nuisance do not hide the timbre."""
    def spectra(digit, seeds):
        return [band_levels(sound.sound(digit, s % 2, film.path(film.motions()[(s * 7) % 24], Rng((digit, s))),
                                        Rng((digit, s)))) for s in seeds]
    means = np.array([np.mean(spectra(d, range(4)), 0) for d in range(10)])
    means -= means.mean(1, keepdims=True)
    good = [np.argmin(((means - (x - x.mean())) ** 2).sum(1)) == d for d in range(10)
            for x in spectra(d, range(20, 24))]
    assert np.mean(good) >= 0.9


def loudness(wave, part):
    cut = wave[0, part * sound.SAMPLES // 4:(part + 1) * sound.SAMPLES // 4]
    return 10 * np.log10((cut.astype(float) ** 2).mean())


def test_level_follows_across_and_pitch_follows_down():
    still = np.full(film.FRAMES, 24.0)
    rise = np.linspace(38, 10, film.FRAMES)
    louder = sound.sound(1, 1, np.stack([rise[::-1], still], 1), Rng((0,)))
    softer = sound.sound(1, 1, np.stack([rise, still], 1), Rng((0,)))
    assert loudness(louder, 3) - loudness(louder, 0) > 6 and loudness(softer, 0) - loudness(softer, 3) > 6

    def pitch(wave, first):
        """The lag at which a stretch repeats best, as a frequency."""
        cut = wave[0, first:first + 2400].astype(float)
        score = np.correlate(cut, cut, "full")[2400 - 1:]
        return sound.RATE / (40 + np.argmax(score[40:160]))

    up = sound.sound(0, 1, np.stack([still + 14, rise], 1), Rng((1,)))
    down = sound.sound(0, 1, np.stack([still + 14, rise[::-1]], 1), Rng((1,)))
    assert pitch(up, sound.SAMPLES - 2500) > 1.4 * pitch(up, 0)
    assert pitch(down, sound.SAMPLES - 2500) < pitch(down, 0) / 1.4


def test_picture_of_clips(small, tmp_path):
    from PIL import Image

    contact_sheet(small, "train", tmp_path / "sheet.png", count=5)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[0] == 5 * 78 + 6 and picture[:, :430].std() > 20
    with pytest.raises(StorageError, match="nowhere"):
        contact_sheet(small, "train", tmp_path / "nowhere" / "sheet.png")
