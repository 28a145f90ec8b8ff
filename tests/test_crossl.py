"""CroSSL: blocks of time, rates by modality, every kind of loss, whatever is missing."""

import copy

import pytest
import torch
from methods_common import holey_batch, rows_of, small

from mmssl.errors import ConfigError
from mmssl.losses import CMC, NCE, Cocoa, VICReg
from mmssl.nn.pooling import pool_time
from mmssl.nn.views import CellMask, ComplementaryMask, ModalityMask, TimeMask
from mmssl.rng import Rng
from mmssl.testing import check_encoder, check_method

CPU = torch.device("cpu")
TIME = "mask={name: time, keep_rate: {acc: 0.5, gyro: 0.7}, block: {acc: 0.3, gyro: 0.64}, modality_keep_rate: 0.7}"
TOKENS = ["trunks.t={name: transformer, dim: 16, depth: 1, heads: 2}",
          *(f"encoders.{m}={{name: tokens, trunk: t, pool: mean}}" for m in ("acc", "gyro"))]
LATENTS = {name: [f"loss={name}", "aggregator=concat"] for name in ("cocoa", "cocoa2", "cmc", "leave_one_out")}
VIEWS = {name: [f"loss={name}"] for name in ("vicreg", "barlow_twins", "nce")}


def test_rates_by_modality_reach_theirs():
    rates, present = {"a": 0.2, "b": 0.9, "c": 1.0}, torch.ones(20_000, 3, dtype=torch.bool)
    for kind, width in ((ModalityMask, 1), (CellMask, 3)):
        for view in kind(rates, min_kept=0, names=("a", "b", "c"))(present, width, Rng((1,))):
            assert view.float().mean((0, 2)).tolist() == pytest.approx([0.2, 0.9, 1.0], abs=0.015)


def test_names_and_settings_that_do_not_fit_are_told():
    with pytest.raises(ConfigError, match="did you mean 'gyro'") as told:
        ModalityMask({"gyroo": 0.5, "acc": 0.5}, names=("acc", "gyro"))
    assert "no value for 'gyro'" in str(told.value)
    for wrong in (lambda: TimeMask(min_kept=0), lambda: TimeMask(block=0.0), lambda: TimeMask(keep_rate=0.0),
                  lambda: CellMask({"a": 0.5}, exact=True, names=("a",))):
        with pytest.raises(ConfigError, match="mask"):
            wrong()


def test_exact_and_complementary_cells():
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    for view in CellMask(0.5, exact=True)(present, 4, Rng((3,))):
        assert view.sum((1, 2)).tolist() == [6, 4, 0]
    a, b = ComplementaryMask(0.5, of="cell")(present, 4, Rng((3,)))
    assert not (a & b).any() and torch.equal(a | b, present[..., None].expand(3, 3, 4)) and not a[0].all(-1).all()


def test_blocks_of_time_are_whole_and_drawn_by_row_and_view():
    seen = TimeMask(0.5, block=0.5).over_time("acc", 4000, 22, 2.2, Rng((1,)), CPU)
    assert seen.shape == (2, 4000, 22)
    blocks = seen.unfold(-1, 5, 5)  # 0.5 s are 5 of 22 steps: four blocks, and one of two steps
    assert (blocks.all(-1) | ~blocks.any(-1)).all() and torch.equal(seen[..., 20], seen[..., 21])
    assert seen.any(-1).all()
    firsts = seen[..., ::5].float()
    # one of 32 sees none, and is given one of its five
    assert firsts.mean((0, 1)).tolist() == pytest.approx([0.5 + 1 / 160] * 5, abs=0.03)
    assert (firsts[0] == firsts[1]).float().mean().item() == pytest.approx(0.5, abs=0.03)
    rows = torch.tensor([7, 3000])
    again = TimeMask(0.5, block=0.5).over_time("acc", 2, 22, 2.2, Rng((1,)).for_rows(rows), CPU)
    assert torch.equal(again, seen[:, rows])
    other = TimeMask(0.5, block=0.5).over_time("acc", 2, 22, 2.2, Rng((2,)).for_rows(rows), CPU)
    assert not torch.equal(again, other)
    assert TimeMask(1e-9, block=9.0).over_time("acc", 5, 22, 2.2, Rng((1,)), CPU).all()  # one block is all there is
    two = TimeMask(1e-9, block={"acc": 0.5}, min_kept=2, names=("acc",)).over_time("acc", 50, 20, 2.0, Rng((1,)), CPU)
    assert (two.sum(-1) == 10).all()


def test_pooling_over_time_by_hand():
    x, seen = torch.randn(3, 7, 4, dtype=torch.float64), torch.rand(3, 7) < 0.5
    seen[:, 2], seen[1] = True, True
    found, whole = pool_time(x, seen, deviation=True), pool_time(x, deviation=True)
    for b in range(3):
        rows = x[b, seen[b]]
        want = torch.cat([rows.mean(0), (rows.var(0, unbiased=False) + 1e-6).sqrt()])
        torch.testing.assert_close(found[b], want)
    torch.testing.assert_close(found[1], whole[1])
    torch.testing.assert_close(pool_time(x, seen), found[:, :4])


@pytest.mark.parametrize("more", [[TIME], [TIME, *TOKENS]], ids=["conv", "tokens"])
def test_two_views_pool_what_the_mask_lets_them_see(more):
    _, parts, method = small("crossl_tiny", *more)
    batch, rng = holey_batch(parts, 8), Rng((5,))
    latents, present = method.embed(batch, rng)
    here = rng.at("gyro").for_rows(batch.rows)
    encoder, x = method.encoders["gyro"], method.modalities["gyro"].on_device(batch.streams["gyro"].data, here)
    seen = method.mask.over_time("gyro", 8, encoder.steps, 2.56, here, CPU)
    states = encoder.states(x)
    for view in (0, 1):
        want = encoder.pool(states, seen[view]) * present["gyro"][:, None]
        torch.testing.assert_close(latents["gyro"][:, view], want, rtol=1e-4, atol=1e-5)
    assert encoder.steps == (128 if len(more) == 1 else 8) and method.embed(batch)[0]["gyro"].ndim == 2
    half = method.embed(rows_of(batch, slice(4, 8)), rng)[0]["gyro"]
    torch.testing.assert_close(half, latents["gyro"][4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [*VIEWS.values(), *LATENTS.values(), [TIME], [TIME, *TOKENS], [TIME, *LATENTS["cmc"]],
                                  ["aggregator=transformer"]], ids=" ".join)
def test_every_kind_of_loss_and_mask_keeps_the_promises_of_a_method(more):
    _, parts, method = small("crossl_tiny", *more)
    check_method(method, holey_batch(parts, 8))
    check_encoder(method.encoders["acc"], torch.randn(3, 3, 128))


@pytest.mark.parametrize("more", [[], [TIME]], ids=["modality", "time"])
def test_in_bfloat16_the_loss_is_float32_and_its_gradient_the_same_but_for_rounding(more):
    _, parts, method = small("crossl_tiny", *more)
    batch, rng, found = holey_batch(parts, 64), Rng((5,)), []
    for half in (False, True):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            latents, present = method.embed(batch, rng.at("embed"))
            loss = method.objective(latents, present, batch.valid, rng.at("objective")).total
        loss.backward()
        assert loss.dtype == torch.float32 and latents["acc"].dtype == (torch.bfloat16 if half else torch.float32)
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in method.parameters()])))
    (loss, gradient), (near, close) = found
    assert near == pytest.approx(loss, rel=0.02) and near != loss
    assert torch.cosine_similarity(gradient, close, dim=0) > 0.99


def test_losses_over_latents_see_the_latents_that_are_present():
    for name, loss in (("cocoa", Cocoa()), ("cmc", CMC())):
        _, parts, method = small("crossl_tiny", *LATENTS[name])
        batch = holey_batch(parts, 8)
        batch.valid[3] = False
        latents, present = method.embed(batch, Rng((1,)))
        found = method.objective(latents, present, batch.valid, Rng((1,)))
        z, there = method.stack(latents, present)
        assert torch.equal(found.total, loss(z, there & batch.valid[:, None]).total)
        whole = copy.deepcopy(batch)
        for stream in whole.streams.values():  # what is absent or not valid may hold anything
            stream.data[~stream.present | ~batch.valid] = 7.0
        again = method.objective(*method.embed(whole, Rng((1,))), batch.valid, Rng((1,)))
        torch.testing.assert_close(again.total, found.total)


def test_nce_of_the_two_views():
    _, parts, method = small("crossl_tiny", "loss={name: nce, temperature: 0.2}")
    batch = holey_batch(parts, 8)
    latents, present = method.embed(batch, Rng((1,)))
    z, there = method.stack(latents, present)
    a, b = (method.aggregator(z * s, s.any(-1)) for s in method.mask(there, z.shape[-1], Rng((1,)).at("mask")))
    rows = there.any(1)
    found = method.objective(latents, present, batch.valid, Rng((1,)))
    assert torch.equal(found.total, NCE(0.2)(a, b, rows, rows))


@pytest.mark.parametrize("loss", [VICReg(), NCE(0.2)], ids=["vicreg", "nce"])
def test_an_expander_is_trained_on_the_rows_that_count_and_compares_what_follows_it(loss):
    _, parts, method = small("crossl_tiny", "method.expander=24")
    method.loss, method.takes = loss, loss.takes
    batch, rng = holey_batch(parts, 16), Rng((1,))
    latents, present = method.embed(batch, rng)
    latents = {m: z.detach().double() for m, z in latents.items()}
    method, batch.valid[5] = method.double(), False
    found = method.objective(latents, present, batch.valid, rng)
    stacked, there = method.stack(latents, present)
    seen = method.mask(there & batch.valid[:, None], stacked.shape[-1], rng.at("mask"))
    rows, views = there.any(1) & batch.valid, []
    for s in seen:
        z = method.aggregator(stacked * s, s.any(-1))[rows] @ method.expander.first.linear.weight.T
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
        views.append(z.relu() @ method.expander.last.weight.T)
    every = torch.ones(int(rows.sum()), dtype=torch.bool)
    want = loss(*views, every, every) if loss.takes == "pair" else loss(*views, every).total
    torch.testing.assert_close(found.total, want)
    of = [*method.expander.parameters(), *method.aggregator.parameters()]
    for ours, by_hand in zip(*(torch.autograd.grad(x, of, retain_graph=True, allow_unused=True)
                               for x in (found.total, want)), strict=True):
        if by_hand is not None:  # the norm's own scale and shift begin as 1 and 0, and are not written out
            torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-9)


def test_an_expander_is_only_there_where_views_are_compared_and_embeddings_do_without():
    assert small("crossl_tiny", *LATENTS["cmc"], "method.expander=24")[2].expander is None
    assert small("crossl_tiny")[2].expander is None
    _, parts, method = small("crossl_tiny", "method.expander=24")
    _, _, plain = small("crossl_tiny", "method.expander=0")
    assert method.kept_wide == () and plain.kept_wide == ("global",)
    assert {k for k in method.state_dict() if not k.startswith("expander.")} == set(plain.state_dict())
    batch = holey_batch(parts, 8)
    with torch.no_grad():
        before = method.global_embedding(batch)
        for p in method.expander.parameters():
            p.fill_(7.0)
        assert torch.equal(method.global_embedding(batch), before)


def test_parts_that_do_not_fit_together_are_told():
    with pytest.raises(ConfigError, match=r"aggregator: would not learn.*aggregator=concat"):
        small("crossl_tiny", "loss=cmc")
    summary = [TOKENS[0], *(t.replace(", pool: mean", "") for t in TOKENS[1:])]
    with pytest.raises(ConfigError, match=r"encoders\.acc: gives no states over time"):
        small("crossl_tiny", TIME, *summary)
    with pytest.raises(ConfigError, match=r"method\.expander: -3; expected a width"):
        small("crossl_tiny", "method.expander=-3")


def test_a_batch_that_is_too_small_is_told_once_and_a_large_one_never(caplog):
    for size, times in ((8, 1), (65, 0)):
        caplog.clear()
        _, parts, method = small("crossl_tiny")
        assert isinstance(method.loss, VICReg) and method.aggregator.dim == 64
        for step in range(2):
            method.training_step(holey_batch(parts, size), step)
        told = [r.getMessage() for r in caplog.records if r.name == "mmssl"]
        assert len(told) == times and all("SMALL BATCH: 8 rows" in t and "What helps" in t for t in told)
