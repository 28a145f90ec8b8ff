"""Encoders from other libraries, by the names they have there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import ConfigError
from mmssl.registry import ENCODERS, nearest
from mmssl.rng import Rng


@ENCODERS.register("timm")
class TimmEncoder(nn.Module):
    """An image model of timm on every frame, and the average over frames.

    Models with BatchNorm (ResNets) take its statistics, while they train, from the frames that one device holds, so
    their results depend on how many devices there are; frozen ones, and models with LayerNorm (ViTs), do not.

    Args:
        modality: of samples (T, H, W, 3) in [-1, 1] on the device, or (H, W, 3); they are brought to the mean and
            deviation that the model was made for.
        model: timm's name, e.g. "resnet18".
        pretrained: whether timm fetches its weights (needs a network); False: random weights.
        weights: file of weights of this model, as timm or its authors publish it (tensors only), instead of fetching.
        frozen: whether they stay as they are: no gradient, and always in evaluation mode.

    Raises:
        ConfigError: timm knows no such model, the samples are no pictures, or the weights do not fit.
    """

    def __init__(self, modality: Any, model: str, pretrained: bool = False, weights: str | None = None,
                 frozen: bool = False) -> None:
        super().__init__()
        import timm
        if not timm.is_model(model):
            raise ConfigError(f"encoder 'timm': timm {timm.__version__} has no model '{model}'; "
                              "list them with `python -c 'import timm; print(timm.list_models())'`")
        shape = tuple(getattr(modality, "input_shape", modality.shape))
        if len(shape) not in (3, 4) or shape[-1] != 3:
            raise ConfigError(f"encoder 'timm': takes pictures (T, H, W, 3), got samples of {list(shape)}; "
                              "choose the encoder 'tokens' for other kinds of signal")
        self.model = (make_timm(model, shape[-3:-1], pretrained=pretrained) if weights is None
                      else timm_from_file(model, shape[-3:-1], weights))
        self.dim = getattr(self.model, "head_hidden_size", self.model.num_features)
        mean, std = (torch.tensor(self.model.pretrained_cfg.get(key) or [0.5] * 3) for key in ("mean", "std"))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.frozen = frozen
        self.model.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TimmEncoder:
        """Training mode on or off; a frozen model stays in evaluation mode."""
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self

    def forward(self, x: Float[Tensor, "B ..."], rng: Rng | None = None) -> Float[Tensor, "B D"]:
        """One vector per sample.

        Args:
            x: (B, T, H, W, 3) or (B, H, W, 3).
            rng: not used; dropout is off, as the models are made by default.
        """
        frames = (x if x.ndim == 5 else x[:, None]) * self.scale + self.shift
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.model(frames.flatten(0, 1).permute(0, 3, 1, 2))
        return features.unflatten(0, frames.shape[:2]).mean(dim=1)


def make_timm(model: str, size: tuple[int, int], **settings: Any) -> nn.Module:
    """A timm model without classifier for pictures of a size; only some models are told it, the others take any."""
    import timm
    try:
        return timm.create_model(model, num_classes=0, img_size=size, **settings)
    except TypeError:
        return timm.create_model(model, num_classes=0, **settings)


def timm_from_file(model: str, size: tuple[int, int], weights: str) -> nn.Module:
    """A timm model with the weights of a file; timm renames and interpolates them as it does with those it fetches.

    timm passes over weights that are not in the file. So the same model is made again without it, from the same random
    state: what is equal in both was left as it was drawn.

    Raises:
        ConfigError: no such file, or one that lacks a weight of the model.
    """
    from timm.models import load_state_dict
    if not Path(weights).is_file():
        raise ConfigError(f"encoder 'timm': weights {weights}: no such file; give one that timm can read")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        state = torch.get_rng_state()
        try:
            stored = load_state_dict(weights, weights_only=True)
            loaded = make_timm(model, size, pretrained=True, pretrained_cfg_overlay={"state_dict": stored})
        except Exception as error:
            raise ConfigError(f"encoder 'timm': weights {weights} do not fit '{model}' ({_reason(error)}); give the "
                              "weights of this model") from None
        torch.set_rng_state(state)
        fresh = make_timm(model, size).state_dict()
    drawn = [name for name, value in loaded.state_dict().items()
             if value.numel() > 1 and not (value == value.flatten()[0]).all() and torch.equal(value, fresh[name])]
    if drawn:
        raise ConfigError(f"encoder 'timm': weights {weights} do not fit '{model}' (they lack {len(drawn)} tensors, "
                          f"{drawn[0]} among them); give the weights of this model")
    return loaded.to(torch.get_default_device())  # a rehearsal builds on the meta device


def _reason(error: Exception) -> str:
    """Why a file could not be taken, in a few words."""
    if "weights only" in str(error).lower().replace("_", " "):
        return "it holds more than tensors, and what else it holds could be code"
    return next(iter(str(error).splitlines()), type(error).__name__)


#: Models of torchaudio, and whether each was trained on waves of mean 0 and deviation 1.
WAVE_MODELS = {"wav2vec2_base": False, "wav2vec2_large": False, "wav2vec2_large_lv60k": True,
               "wav2vec2_xlsr_300m": True, "wav2vec2_xlsr_1b": True, "wav2vec2_xlsr_2b": True, "hubert_base": False,
               "hubert_large": True, "hubert_xlarge": True, "wavlm_base": False, "wavlm_large": True}
NO_DROPOUT = dict.fromkeys(("encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout",
                            "encoder_dropout", "encoder_layer_drop"), 0.0)


@ENCODERS.register("torchaudio")
class TorchaudioEncoder(nn.Module):
    """A model of torchaudio's wav2vec 2.0 family on the waveform, and the average over time; all dropout off.

    Source: wav2vec 2.0 (arXiv 2006.11477), HuBERT (arXiv 2106.07447), WavLM (arXiv 2110.13900), XLS-R
    (arXiv 2111.09296); "tiny" (4 layers of 192) is ours.

    Args:
        modality: of samples (S,) on the device; the published weights expect 16 kHz.
        model: torchaudio's name, e.g. "wav2vec2_base", "hubert_large", "wavlm_base"; or "tiny".
        weights: file with a state dict of that model (tensors only), e.g. one that torchaudio's pipelines fetch; null:
            random weights.
        frozen: whether they stay as they are: no gradient, and always in evaluation mode.

    Raises:
        ConfigError: no such model, samples that are no waveform, or weights that do not fit.
    """

    def __init__(self, modality: Any, model: str = "wav2vec2_base", weights: str | None = None,
                 frozen: bool = False) -> None:
        super().__init__()
        shape = tuple(getattr(modality, "input_shape", modality.shape))
        if len(shape) != 1:
            raise ConfigError(f"encoder 'torchaudio': takes a waveform (S,), got samples of {list(shape)}; "
                              "choose the modality 'audio'")
        self.model = wave_model(model) if weights is None else wave_from_file(model, weights)
        self.dim = self.model.encoder.feature_projection.projection.out_features
        self.frozen, self.standardised = frozen, WAVE_MODELS.get(model, False)
        self.model.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TorchaudioEncoder:
        """Training mode on or off; a frozen model stays in evaluation mode."""
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self

    def forward(self, x: Float[Tensor, "B S"], rng: Rng | None = None) -> Float[Tensor, "B D"]:
        """One vector per waveform (B, S). `rng` is not used."""
        x = nn.functional.layer_norm(x, x.shape[-1:]) if self.standardised else x
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.model(x)[0].mean(dim=1)


def wave_model(name: str) -> nn.Module:
    """A model of torchaudio by its name there, without dropout and without a head. Raises ConfigError for others."""
    import torchaudio.models
    if name == "tiny":
        return torchaudio.models.wav2vec2_model(
            extractor_mode="group_norm", extractor_conv_layer_config=None, extractor_conv_bias=False,
            encoder_embed_dim=192, encoder_pos_conv_kernel=128, encoder_pos_conv_groups=16, encoder_num_layers=4,
            encoder_num_heads=3, encoder_ff_interm_features=768, encoder_layer_norm_first=False, aux_num_out=None,
            **NO_DROPOUT)
    if name not in WAVE_MODELS:
        raise ConfigError(f"encoder 'torchaudio': no model '{name}'{nearest(name, [*WAVE_MODELS, 'tiny'])}")
    return getattr(torchaudio.models, name)(**NO_DROPOUT)


def wave_from_file(name: str, path: str) -> nn.Module:
    """A model of torchaudio with the weights of a file, every one of them; a head for letters in it is left out.

    Raises:
        ConfigError: no such model, or a file that cannot be read or is of another model.
    """
    with torch.device("cpu"):
        model = wave_model(name)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict({k: v for k, v in stored.items() if not k.startswith("aux.")})
        except Exception as error:
            raise ConfigError(f"encoder 'torchaudio': weights {path} do not fit '{name}' ({_reason(error)}); give the "
                              "state dict of the torchaudio model of the same name") from None
    return model.to(torch.get_default_device())  # a rehearsal builds on the meta device
