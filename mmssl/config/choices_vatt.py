"""Where VATT's paper and its released code differ: seventeen choices, what each of them says, and what mmssl suggests.

Source: arXiv 2104.11178 and its released code; the numbers are those of docs/vatt.md.
"""

from __future__ import annotations

from mmssl.config.choices import Choice, Setting, Table

CHOICES = (
    Choice(1, "warm-up", (Setting("optim.warmup", (10_000, 5_000, 10_000)),)),
    Choice(2, "learning rate's way down", (
        Setting("optim.shape", ("quarter_cosine", "half_cosine", "quarter_cosine")),)),
    Choice(3, "total of the pairs", (Setting("method.total", ("sum", "mean", "mean"), ("vatt", "vatt_ma")),)),
    Choice(4, "denominator of NCE", (
        Setting("pairs.*.form", ("once", "asymmetric", "asymmetric"), ("nce", "mil_nce")),)),
    Choice(5, "head", (
        Setting("head.linear_norm", (True, False, False), ("common_space",)),
        Setting("head.coarse_relu", (False, True, True), ("common_space",)))),
    Choice(6, "LayerNorm on positions", (Setting("encoders.*.position_norm", (False, True, True), ("tokens",)),)),
    Choice(7, "position of the summary token", (
        Setting("encoders.*.summary_position", (True, False, False), ("tokens",)),)),
    Choice(8, "words", (
        Setting("modalities.*.word_dim", (None, 300, 300), ("text",), "the trunk's width"),
        Setting("modalities.*.trainable", (True, False, None), ("text",), "unless there are vectors"))),
    Choice(9, "layers with the relative bias", (
        Setting("trunks.*.relative_bias", ("first", "every", "every"), ("t5", "t5_small")),)),
    Choice(10, "Dense and GELU around a shared trunk", (
        Setting("encoders.*.pre_projection", (False, True, True), ("tokens",)),
        Setting("encoders.*.post_projection", (0, 1024, 1024), ("tokens",))), methods=("vatt_ma",)),
    Choice(11, "crop of the frames", (Setting("modalities.*.crop", ("inception", "vgg", "inception"), ("video",)),)),
    Choice(12, "films of 25 frames per second", (
        Setting("modalities.*.resample", ("nearest", "stride", "nearest"), ("video",)),)),
    Choice(13, "noise on the sound", (Setting("modalities.*.noise", (0.0, 0.01, 0.0), ("audio",)),)),
    Choice(14, "training of the low-rank classifier", elsewhere="decided when probing"),
    Choice(15, "limit on the encoders' gradient", (
        Setting("optim.clip", (None, {"encoders": 0.75}, {"encoders": 0.75}), null="none"),),
        methods=("classifier",), elsewhere="decided when fine-tuning"),
    Choice(16, "fine-tuning's crop and DropToken", (
        Setting("modalities.*.size", (320, 224, 320), ("video",)),
        Setting("encoders.*.keep_rate", (1.0, 0.5, 1.0), ("tokens",))),
        methods=("classifier",), elsewhere="decided when fine-tuning"),
    Choice(17, "YouCook2's pool of clips", elsewhere="what the packed data set holds"),
)

VATT = Table("VATT's choices between paper and released code", ("paper", "code", "suggested"), ("vatt", "vatt_ma"),
             CHOICES)
