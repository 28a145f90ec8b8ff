"""Frozen features: what a module gives, in evaluation mode, with absent modalities as zeros."""

import numpy as np
import pytest
import torch

from mmssl.errors import DataError
from mmssl.eval import extract, frozen, join
from mmssl.types import Batch, Stream


class Toy(torch.nn.Module):
    """Doubles one modality, gives two items per sample of another; refuses to be trained or random."""

    def __init__(self):
        super().__init__()
        self.part, self.dropout, self.still = torch.nn.Linear(2, 2), torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval()

    def embed(self, batch, rng=None):
        assert rng is None and not self.training and not torch.is_grad_enabled()
        video, words = batch.streams["video"], batch.streams["text"]
        items = words.data > 0
        latents = {"video": self.dropout(2 * video.data), "text": words.data[..., None].float().expand(-1, -1, 2)}
        return latents, {"video": video.present, "text": items & words.present[:, None]}

    def global_embedding(self, batch, seen=None):
        return batch.streams["video"].data[:, :1] + 1


def toy_batch():
    return Batch(streams={
        "video": Stream(data=torch.tensor([[1.0, 2], [float("nan"), 0], [5, 6], [7, 8]]),
                        present=torch.tensor([True, False, True, True])),
        "text": Stream(data=torch.tensor([[1, 3], [4, 0], [9, 9], [0, 0]]),
                       present=torch.tensor([True, True, False, True]))},
        valid=torch.tensor([True, True, False, True]), rows=torch.arange(4), keys=list("abcd"),
        labels={"kind": torch.tensor([0, 1, 2, -1])}, groups=["s1", "s2", "s1", ""])


def test_features_are_means_of_present_items_with_zeros_where_absent():
    method = Toy().train()
    method.still.eval()
    with torch.enable_grad():
        found = extract(method, [toy_batch(), toy_batch()])
    assert method.training and method.dropout.training and not method.still.training
    one = np.array([[2, 4], [0, 0], [14, 16]], np.float32)
    text = np.array([[2, 2], [4, 4], [0, 0]], np.float32)
    assert np.array_equal(found.x["video"], np.concatenate([one, one]))
    assert np.array_equal(found.x["text"][:3], text)
    assert np.array_equal(found.x["all"][:3], np.concatenate([one, text], axis=1))
    assert np.array_equal(found.x["global"][[0, 2], 0], [2, 8]) and found.x["global"].shape == (6, 1)
    assert found.present["video"][:3].tolist() == [True, False, True]
    assert found.present["text"][:3].tolist() == [True, True, False] and found.present["all"].all()
    assert found.keys.tolist() == list("abdabd") and found.groups[:3].tolist() == ["s1", "s2", ""]
    assert found.labels["kind"][:3].tolist() == [0, 1, -1] and found.keys.dtype.kind == "U"


def test_features_stop_at_a_limit_and_join():
    found = extract(Toy(), [toy_batch(), toy_batch()], limit=4)
    assert len(found) == 4 and found.x["video"].shape == (4, 2)
    other = extract(Toy(), [toy_batch()])
    other.labels = {"size": np.array([7, 7, 7])}
    both = join([found, other])
    assert both.labels["kind"].tolist() == [0, 1, -1, 0, -1, -1, -1]
    assert both.labels["size"].tolist() == [-1] * 4 + [7] * 3
    with pytest.raises(DataError, match="no sample"):
        extract(Toy(), [])


def test_a_module_that_refuses_evaluation_mode_is_caught():
    class Stubborn(torch.nn.Dropout):
        def eval(self):
            return self
        def train(self, mode=True):
            self.training = True
            return self
    method = Toy()
    method.bad = Stubborn()
    with pytest.raises(AssertionError, match="evaluation mode"):
        extract(method, [toy_batch()])


def test_frozen_restores_modes_after_an_error():
    method = Toy().train()
    with pytest.raises(RuntimeError), frozen(method):
        raise RuntimeError
    assert method.training and torch.is_grad_enabled()
