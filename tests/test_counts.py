"""Sizes and costs of the published models, to the last parameter and multiply-add; on the meta device, so for free."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmssl.modalities import Audio, Mel, Text, Video
from mmssl.nn import CommonSpace, T5Encoder, TokenEncoder
from mmssl.registry import TRUNKS
from mmssl.rng import Rng

VIDEO, TEXT = {224: (8, 14, 14), 320: (8, 20, 20)}, Text(trainable=False)
PAIRS = [("video", "audio"), ("video", "text")]
X_AUDIO, X_TEXT = torch.empty(1, 153_600, device="meta"), torch.ones(1, 1, 16, dtype=torch.long, device="meta")


def trunk(name, **settings):
    with torch.device("meta"):
        return TRUNKS.build(name, **settings)


def encoder(modality, size, **settings):
    with torch.device("meta"):
        kind = T5Encoder if size == "t5_small" else TokenEncoder
        return kind(modality, trunk(size) if isinstance(size, str) else size, **settings)


def video(size=224):
    return Video(frames=32, size=size, rate=10.0, patch=[4, 16, 16])


def audio():
    return Audio(rate=48_000, seconds=3.2, patch=128)


def count(*modules, frozen=False):
    unique = {id(p): p for m in modules for p in m.parameters() if p.requires_grad or frozen}
    return sum(p.numel() for p in unique.values())


def head(v, a, t):
    with torch.device("meta"):
        return CommonSpace({"video": v, "audio": a, "text": t}, PAIRS)


def macs(encoder, x, rng=None):
    with FlopCounterMode(display=False) as counter:
        encoder(x, rng)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("size", "blocks", "at_224", "at_320", "wave"), [
    ("small", 18_915_328, 20_508_672, 20_514_816, 19_597_312),
    ("base", 85_056_000, 87_446_016, 87_455_232, 86_078_976),
    ("medium", 151_156_736, 154_343_424, 154_355_712, 152_520_704),
    ("large", 302_311_424, 305_498_112, 305_510_400, 303_675_392)])
def test_backbones(size, blocks, at_224, at_320, wave):
    assert count(trunk(size)) == blocks
    assert count(encoder(video(224), size)) == at_224
    assert count(encoder(video(320), size)) == at_320
    assert count(encoder(audio(), size)) == wave


@pytest.mark.parametrize(("size", "spectrogram"), [
    ("base", 85_056_768), ("medium", 151_157_760), ("large", 302_201_856)])
def test_spectrogram_backbone_without_block_biases(size, spectrogram):
    mel = Mel(rate=48_000, seconds=3.2, window=2048, hop=1024, mels=80, patch=[16, 5])
    built = encoder(mel, trunk(size, bias=False))
    assert count(built) == spectrogram and built.tokens == 145


def test_text_encoder():
    assert count(trunk("t5_small")) == 18_884_352
    text = encoder(TEXT, "t5_small")
    assert count(text) == 19_038_252 and count(text, frozen=True) == 38_699_052


@pytest.mark.parametrize(("size", "backbones", "bridge", "total", "with_words"), [
    ("base", 192_563_244, 1_314_048, 193_877_292, 213_538_092),
    ("medium", 259_460_652, 1_445_120, 260_905_772, 280_566_572),
    ("large", 410_615_340, 1_445_120, 412_060_460, 431_721_260)])
def test_vatt(size, backbones, bridge, total, with_words):
    parts = [encoder(video(), size), encoder(audio(), "base"), encoder(TEXT, "t5_small")]
    top = head(*(p.dim for p in parts))
    assert (count(*parts), count(top), count(*parts, top)) == (backbones, bridge, total)
    assert count(*parts, top, frozen=True) == with_words


@pytest.mark.parametrize(("size", "backbones", "total", "with_words"), [
    ("base", 92_258_304, 93_965_568, 113_626_368), ("medium", 161_283_072, 162_990_336, 182_651_136),
    ("large", 312_437_760, 314_145_024, 333_805_824)])
def test_vatt_ma(size, backbones, total, with_words):
    shared = trunk(size)
    parts = [encoder(m, shared, pre_projection=True, post_projection=1024) for m in (video(), audio(), TEXT)]
    top = head(1024, 1024, 1024)
    assert (count(*parts), count(top), count(*parts, top)) == (backbones, 1_707_264, total)
    assert count(*parts, top, frozen=True) == with_words


@pytest.mark.parametrize(("modality", "keep_rate", "tokens"), [
    (video(224), 1.0, 1569), (video(224), 0.75, 1177), (video(224), 0.5, 785), (video(224), 0.25, 393),
    (video(320), 1.0, 3201), (video(320), 0.75, 2401), (video(320), 0.5, 1601), (video(320), 0.25, 801),
    (audio(), 1.0, 1201), (audio(), 0.75, 901), (audio(), 0.5, 601), (audio(), 0.25, 301)])
def test_tokens_kept(modality, keep_rate, tokens):
    built = encoder(modality, "small", keep_rate=keep_rate)
    assert built.kept_tokens == tokens
    x = torch.empty(1, *modality.shape, device="meta")
    assert built.states(x, Rng((1,))).shape[1] == tokens and built.states(x).shape[1] == built.tokens


MACS = {
    ("video", "base", 224): (182_337_030_144, 129_201_850_368, 81_731_340_288, 39_925_499_904),
    ("video", "medium", 224): (302_343_806_976, 216_699_396_096, 138_607_878_144, 68_069_253_120),
    ("video", "large", 224): (599_755_112_448, 428_466_290_688, 272_283_254_784, 131_206_004_736),
    ("video", "base", 320): (468_287_244_288, 317_734_668_288, 190_775_052_288, 87_408_396_288),
    ("video", "medium", 320): (745_216_696_320, 514_280_939_520, 314_802_462_720, 146_781_265_920),
    ("video", "large", 320): (1_480_367_063_040, 1_018_495_549_440, 619_538_595_840, 283_496_202_240),
    ("audio", "base", 0): (128_710_821_888, 91_607_205_888, 57_821_349_888, 27_353_253_888),
    ("audio", "medium", 0): (216_950_661_120, 156_154_552_320, 99_782_123_520, 47_833_374_720),
}


@pytest.mark.parametrize(("kind", "size", "pixels"), MACS)
def test_forward_cost(kind, size, pixels):
    """With every patch projected, as published; and what dropping before the projection saves, exactly."""
    modality = video(pixels) if kind == "video" else audio()
    built, x = encoder(modality, size, project_all=True), torch.empty(1, *modality.shape, device="meta")
    for keep_rate, expected in zip((1.0, 0.75, 0.5, 0.25), MACS[kind, size, pixels], strict=True):
        built.keep_rate = keep_rate
        assert macs(built, x, Rng((1,))) == expected
    built.project_all = False
    dropped = round(0.75 * (built.tokens - 1))
    assert macs(built, x, Rng((1,))) == expected - dropped * (3072 if kind == "video" else 128) * built.dim


def test_cost_of_a_text_and_of_a_spectrogram():
    assert macs(encoder(TEXT, "t5_small"), X_TEXT) == 325_251_072
    mel = Mel(rate=48_000, seconds=3.2, window=2048, hop=1024, mels=80, patch=[16, 5])
    x = torch.empty(1, *mel.input_shape, device="meta")
    for size, giga in (("base", 12.71), ("medium", 22.42)):
        assert macs(encoder(mel, trunk(size, bias=False)), x) / 1e9 == pytest.approx(giga, abs=0.005)


@pytest.mark.parametrize(("keep_rate", "mbs", "ma"), [
    (1.0, 431.38, 527.70), (0.75, 308.63, 380.53), (0.5, 196.75, 245.34), (0.25, 95.75, 122.13)])
def test_total_cost_with_one_text(keep_rate, mbs, ma):
    """GMAC. The published MA figure has the post-projection on every token; ours has it on the one that is read."""
    inputs, rng = (torch.empty(1, 32, 224, 224, 3, device="meta"), X_AUDIO, X_TEXT), Rng((1,))
    drops = {"keep_rate": keep_rate, "project_all": True}
    parts = [encoder(video(), "medium", **drops), encoder(audio(), "base", **drops), encoder(TEXT, "t5_small")]
    assert sum(macs(e, x, rng) for e, x in zip(parts, inputs, strict=True)) / 1e9 == pytest.approx(mbs, abs=0.005)
    shared, both = trunk("medium"), {"pre_projection": True, "post_projection": 1024}
    parts = [encoder(m, shared, **drops, **both) for m in (video(), audio())] + [encoder(TEXT, shared, **both)]
    total = sum(macs(e, x, rng) for e, x in zip(parts, inputs, strict=True))
    on_the_rest = 1024 * 1024 * sum(e.kept_tokens - 1 for e in parts)
    assert (total + on_the_rest) / 1e9 == pytest.approx(ma, abs=0.005)
