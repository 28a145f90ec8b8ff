"""One, two and four processes compute the same loss and gradients of the same global batch, for every method."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from methods_common import classifier, holey_batch, labels_for, rows_of, small
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmssl.optim import limit_gradients

PAPER = ("source=paper", "encoders.video={trunk: video, keep_rate: 0.5, drop: sample}", "trunks.video.dropout=0.1",
         "trunks.text={name: t5, dim: 24, depth: 2, heads: 2}", "encoders.text={name: t5, trunk: text}",
         "optim.clip={encoders: 0.3, head: 0.5}")
TIME = ("mask={name: time, keep_rate: 0.5, block: 0.5, modality_keep_rate: 0.7}", "method.l2=1e-4",
        "trunks.t={name: transformer, dim: 16, depth: 1, heads: 2, dropout: 0.1}",
        "encoders.gyro={name: tokens, trunk: t, pool: mean_std}", "encoders.acc.dropout=0.1")
#: By name: the recipe, and what is changed of it.
METHODS = {"vatt": ("vatt_tiny", ()), "vatt_ma": ("vatt_ma_tiny", ()), "crossl": ("crossl_tiny", ()),
           "paper": ("vatt_tiny", PAPER), "classifier": ("crossl_tiny", ()), "time": ("crossl_tiny", TIME),
           "nce": ("crossl_tiny", ("loss=nce",)), "barlow_twins": ("crossl_tiny", ("loss=barlow_twins",)),
           "expander": ("crossl_tiny", ("method.expander=24",)),
           **{loss: ("crossl_tiny", (f"loss={loss}", "aggregator=concat"))
              for loss in ("cocoa", "cocoa2", "cmc", "leave_one_out")}}
BATCH = 32


class Step(nn.Module):
    """The training step as a module's forward, as Lightning hands it to DistributedDataParallel."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.training_step(batch, 0)


def doubled(x):
    return x.double() if x.is_floating_point() else x


def gradients(name, rank=0, world=1):
    if name == "classifier":  # its weights are those of the whole batch, its mixtures of blocks of eight rows
        parts, method = classifier("crossl_tiny", "all", loss="multi_label", mixup=5.0)
    else:
        recipe, changes = METHODS[name]
        _, parts, method = small(recipe, *changes)
    method = method.double()
    for part in parts.values():  # everything in float64: what differs then is the algorithm
        original = part.on_device
        part.on_device = lambda data, rng, f=original: doubled(f(data, rng))
    batch = holey_batch(parts, BATCH)
    if name == "classifier":
        labels_for(method, batch)
        batch.labels["kind"][3] = -1
    share = BATCH // world
    step = Step(method)
    if world > 1:
        step = DistributedDataParallel(step)
    loss = step(rows_of(batch, slice(rank * share, (rank + 1) * share)))
    loss.backward()
    limit_gradients(method, method.optim)
    flat = torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])
    return loss.detach(), flat


def worker(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = {name: gradients(name, rank, world) for name in METHODS}
    if rank == world - 1:
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_one_process(world):
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (world, folder), nprocs=world)
        found = torch.load(Path(folder) / "found.pt", weights_only=True)
    for name in METHODS:
        loss, alone = gradients(name)
        assert torch.isfinite(loss) and alone.norm() > 0
        assert abs(found[name][0] - loss) <= 1e-9 * abs(loss), name
        assert (found[name][1] - alone).norm() <= 1e-5 * alone.norm(), name
