"""One step on random samples: tokens, exact parameter counts and memory, before any data is needed."""

from __future__ import annotations

import time

import torch
from torch import nn

from mmssl import build
from mmssl.config import Recipe
from mmssl.cost import activation_bytes, random_batch
from mmssl.methods import Method
from mmssl.optim import build_optimizer
from mmssl.rng import Rng
from mmssl.types import Batch


def dry_run(recipe: Recipe, size: int = 2) -> str:
    """Build everything, run one optimiser step on `size` random samples, and describe what was built.

    Args:
        recipe: as loaded; its data set is not touched. That of a classifier knows its classes (`completing.complete`).
        size: B; two, so that a contrast has a negative.

    Returns:
        lines for the user: tokens, parameters by part and in total (trainable, and the frozen or trainable word table
        on a line of its own), what a step took in time and memory.
    """
    parts = build.modalities(recipe)
    model = build.method(recipe, parts)
    batch = random_batch(parts, size)
    if recipe.finetune is not None:
        batch.labels = {label: torch.arange(size) % len(names) for label, names in recipe.finetune.classes.items()}
    title = f"{recipe.name}: one step on {size} random samples"
    sections = [parameter_lines(model), _token_lines(model, batch), _step_lines(model, batch)]
    return "\n".join([title, *(line for section in sections for line in ("", *section))])


def word_tables(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the word tables, which every count lists apart."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and getattr(m, "is_word_table", False)]


def counts(model: Method) -> dict[str, int]:
    """Parameters by part, each counted where it appears first, word tables left out; and "trainable" in all.

    Shared modules are named once: a trunk that several encoders use is "trunk (shared)".
    """
    tables, seen = {id(p) for p in word_tables(model)}, set()
    uses: dict[int, int] = {}
    for encoder in model.encoders.values():
        trunk = getattr(encoder, "trunk", None)
        if trunk is not None:
            uses[id(trunk)] = uses.get(id(trunk), 0) + 1
    found: dict[str, int] = {}

    def add(name: str, module: nn.Module) -> None:
        fresh = [p for p in module.parameters() if id(p) not in seen and id(p) not in tables and p.requires_grad]
        seen.update(id(p) for p in fresh)
        if fresh:
            found[name] = sum(p.numel() for p in fresh)

    for encoder in model.encoders.values():
        trunk = getattr(encoder, "trunk", None)
        if trunk is not None and uses[id(trunk)] > 1:
            add("trunk (shared)", trunk)
    for name, encoder in model.encoders.items():
        add(name, encoder)
    for name, module in model.named_children():
        if name != "encoders":
            add(name, module)
    found["trainable"] = sum(found.values())
    return found


def parameter_lines(model: Method) -> list[str]:
    """The counts for a reader; each word table on a line of its own, outside the totals."""
    found = counts(model)
    lines = ["parameters", *(f"  {name:<22} {n:>13,}" for name, n in found.items() if name != "trainable"),
             f"  {'trainable':<22} {found['trainable']:>13,}{'  without the word table' if word_tables(model) else ''}"]
    for table in word_tables(model):
        state = "trainable" if table.requires_grad else "frozen"
        lines.append(f"  {'word table':<22} {table.numel():>13,}  {table.shape[0]:,} × {table.shape[1]}, {state}")
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad) - sum(
        t.numel() for t in word_tables(model) if not t.requires_grad)
    return [*lines, f"  {'other frozen':<22} {frozen:>13,}"] if frozen else lines


def _token_lines(model: Method, batch: Batch) -> list[str]:
    lines = ["tokens and memory per sample"]
    for name, encoder in model.encoders.items():
        data = batch.streams[name].data
        shipped = data[0].numel() * data.element_size()
        tokens = getattr(encoder, "tokens", None)
        kept = getattr(encoder, "kept_tokens", tokens)
        what = f"{tokens:,} tokens, {kept:,} kept in training" if tokens else "no tokens"
        lines.append(f"  {name:<10} {what:<42} input {shipped / 2**20:8.3f} MiB, "
                     f"activations {activation_bytes(model, name, batch) / len(batch) / 2**20:9.2f} MiB")
        cut = getattr(encoder, "tokenizer", None)
        if any(getattr(cut, "remainder", ())):
            lines.append(f"  {'':<10} NOT READ: {list(cut.remainder)} at the ends of {list(cut.shape)}, which patches "
                         f"of {list(cut.patch)} do not fill")
    return lines


def _step_lines(model: Method, batch: Batch) -> list[str]:
    optimizer = build_optimizer(model, model.optim)
    begin = time.perf_counter()
    rng = Rng((model.seed, "dry run"))
    loss = model.loss_of(batch, rng)
    loss.total.backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    seconds = time.perf_counter() - begin
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
    parts = ", ".join(f"{k} {float(v.detach()):.4f}" for k, v in loss.parts.items())
    lines = [f"one step: loss {float(loss.total.detach()):.4f} ({parts}), {seconds:.2f} s on the CPU",
             f"memory: weights {trainable / 2**20:,.0f} MiB, gradients {trainable / 2**20:,.0f} MiB, "
             f"optimiser {held / 2**20:,.0f} MiB, and per sample the activations above"]
    return [*lines, f"WITHOUT GRADIENT: {', '.join(idle)}"] if idle else lines
