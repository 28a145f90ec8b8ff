"""CroSSL as its authors released it, and as we recommend it: what each says of every choice.

`reference` is the released code of arXiv 2307.16847 with the defaults of its command line. `recommended` is ours: a
batch that can show the covariance of the embedding, VICReg's own weights, views that differ more and are never empty,
and what proved itself on validation subjects (docs/crossl.md).
"""

from __future__ import annotations

from mmssl.config.choices import Choice, Setting, Table

CONV = ("conv",)
DRAWN = ("modality", "cell")
VICREG = ("vicreg",)

CHOICES = (
    Choice(1, "width of the latents", (Setting("encoders.*.width", (96, 96), CONV),)),
    Choice(2, "states over time become", (Setting("encoders.*.pool", ("mean", "mean_std"), CONV),)),
    Choice(3, "first kernels", (
        Setting("encoders.*.init_seed", (0, None), CONV, "each sensor's drawn apart"),)),
    Choice(4, "dropout while pre-training", (Setting("encoders.*.dropout", (0.0, 0.0), CONV),)),
    Choice(5, "aggregator", (
        Setting("aggregator.hidden", ([64, 32], [64, 32]), ("mlp",)),
        Setting("aggregator.dim", (32, 32), ("mlp",)))),
    Choice(6, "what a view sees", (
        Setting("mask.keep_rate", (0.9, 0.7), DRAWN),
        Setting("mask.min_kept", (0, 1), DRAWN))),
    Choice(7, "weights of the loss", (
        Setting("loss.sim", (10.0, 25.0), VICREG),
        Setting("loss.std", (10.0, 25.0), VICREG),
        Setting("loss.cov", (100.0, 1.0), VICREG))),
    Choice(8, "squared kernels in the loss", (Setting("method.l2", (1e-4, 0.0), ("crossl",)),)),
    Choice(9, "batch", (Setting("data.batch_per_device", (8, 128)),)),
    Choice(10, "optimiser", (
        Setting("optim.name", ("adam", "adamw")),
        Setting("optim.weight_decay", (0.0, 0.01)))),
    Choice(11, "learning rate", (
        Setting("optim.lr", (1e-4, 1e-3)),
        Setting("optim.shape", ("constant", "half_cosine")),
        Setting("optim.warmup", (0, 20)),
        Setting("optim.final_lr", (1e-4, 1e-5)))),
    Choice(12, "input varied in training", (
        Setting("modalities.*.jitter", (0.0, 0.1), ("series",)),
        Setting("modalities.*.scale", (0.0, 0.2), ("series",)))),
    Choice(13, "order of the samples", elsewhere="drawn anew in each epoch; released: one for all"),
    Choice(14, "length", elsewhere="trainer.max_steps; released: up to 50 epochs"),
)

CROSSL = Table("CroSSL as released and as recommended", ("reference", "recommended"), ("crossl",), CHOICES)
