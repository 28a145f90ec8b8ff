"""Windows, crops, colours, turns, noise and words: pure functions of tensors and of the draws given to them."""

from mmssl.transforms.colour import Jitter, jittered, recolour, to_unit
from mmssl.transforms.mixing import mixed, mixing, mixup
from mmssl.transforms.pictures import Crop, crop_frames, crop_view, inception_box, resize, resize_shorter
from mmssl.transforms.sensors import noisy, rotations, scaled, turned
from mmssl.transforms.sound import add_noise, sound_window
from mmssl.transforms.time import cut, take, whole_ratio, window_indices, window_steps
from mmssl.transforms.words import (
    PAD,
    SPECIAL,
    UNKNOWN,
    VOCABULARY_SIZE,
    count_words,
    nearest_in_time,
    vocabulary,
    words_of,
)

__all__ = ["PAD", "SPECIAL", "UNKNOWN", "VOCABULARY_SIZE", "Crop", "Jitter", "add_noise", "count_words", "crop_frames",
           "crop_view", "cut", "inception_box", "jittered", "mixed", "mixing", "mixup", "nearest_in_time", "noisy",
           "recolour", "resize", "resize_shorter", "rotations", "scaled", "sound_window", "take", "to_unit", "turned",
           "vocabulary", "whole_ratio", "window_indices", "window_steps", "words_of"]
