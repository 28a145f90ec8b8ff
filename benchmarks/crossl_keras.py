"""CroSSL's encoders in TensorFlow, the library of its released code: the peer of `crossl_step.py --tensorflow`.

Needs tensorflow-cpu 2.15.1, the last version with the Keras that code was written for; install it in an environment of
its own, as it wants older packages than the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import torch
from torch import Tensor

from mmssl.nn import ConvEncoder
from mmssl.nn.conv_layer import EPS

Step = Callable[[], tuple[list[np.ndarray], list[np.ndarray]]]


def encoder(ours: ConvEncoder, steps: int) -> tf.keras.Model:
    """The layers of the released code, holding the weights of `ours`: (B, T, C) to (B, K)."""
    layers, weights = [], []
    for layer in ours.blocks:
        outputs, _, kernel = layer.weight.shape
        layers += [tf.keras.layers.Conv1D(outputs, kernel, padding="same"),
                   tf.keras.layers.LayerNormalization(epsilon=EPS), tf.keras.layers.PReLU(shared_axes=[1])]
        weights += [layer.weight.permute(2, 1, 0), layer.bias, layer.norm.weight, layer.norm.bias, layer.slope[None]]
    model = tf.keras.Sequential([tf.keras.Input((steps, ours.blocks[0].weight.shape[1])), *layers,
                                 tf.keras.layers.GlobalAveragePooling1D()])
    model.set_weights([w.detach().numpy() for w in weights])
    return model


def stepper(ours: Sequence[ConvEncoder], inputs: Sequence[Tensor]) -> Step:
    """What `crossl_step.step` does, as one graph; gives the latents, M of (B, K), and the gradients, in the order of
    our parameters' layers.

    Args:
        inputs: (B, C, T) of each sensor.
    """
    if tf.config.threading.get_intra_op_parallelism_threads() != torch.get_num_threads():  # once, before its first work
        tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    models = [encoder(e, x.shape[2]) for e, x in zip(ours, inputs, strict=True)]
    data = [tf.constant(x.transpose(1, 2).contiguous().numpy()) for x in inputs]
    weights = [w for model in models for w in model.trainable_weights]

    @tf.function
    def graph(data: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            latents = [model(x, training=False) for model, x in zip(models, data, strict=True)]
            loss = tf.reduce_mean(tf.square(tf.stack(latents, axis=1)))
        return latents, tape.gradient(loss, weights)

    def act() -> tuple[list[np.ndarray], list[np.ndarray]]:
        latents, gradients = graph(data)
        return [z.numpy() for z in latents], [g.numpy() for g in gradients]

    return act
