"""A trained run as one ONNX file, checked against the original and timed: for phones, watches and servers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmssl import __version__
from mmssl.errors import ConfigError
from mmssl.evaluate import open_model
from mmssl.methods import Method
from mmssl.rng import Rng
from mmssl.rundir import RunDir
from mmssl.storage import write_whole

#: Largest difference between the exported and the original outputs that is let pass, over the largest output.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install 'mmssl[export]'"
#: Runs that are timed, after a tenth as many that are not.
TIMED = 100


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares.

    Args:
        path: the ONNX file.
        bytes: its size.
        parity: by output, the largest difference to the original over the largest value, over all subsets tried.
        milliseconds: median and 95th percentile for one sample on one thread, ONNX Runtime.
        milliseconds_torch: the same for PyTorch.
        text: the same for a reader.
    """

    path: Path
    bytes: int
    parity: dict[str, float]
    milliseconds: tuple[float, float]
    milliseconds_torch: tuple[float, float]
    text: str


class Deployed(nn.Module):
    """What is exported: samples as files hold them and which of them are there, to embeddings. No paper: ours.

    Args:
        model: trained; its modalities and encoders, and the aggregator where the method has one.
    """

    def __init__(self, model: Method) -> None:
        super().__init__()
        self.model, self.names = model, list(model.encoders)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` gives."""
        first = {"aggregate": "embedding", "probabilities": "probabilities"}
        return [*(name for part, name in first.items() if hasattr(self.model, part)),
                *(f"features.{m}" for m in self.names)]

    def forward(self, inputs: tuple[Tensor, ...], available: Tensor) -> tuple[Tensor, ...]:
        """The global embedding (B, D) or the probabilities of the classes (B, C), where the method has such, and each
        modality's features (B, K), zeros if absent.

        Args:
            inputs: by modality (B, *shape), in the units of the files; what is absent may hold anything finite.
            available: (B, M) bool.
        """
        latents, present = {}, {}
        for i, (name, x) in enumerate(zip(self.names, inputs, strict=True)):
            modality = self.model.modalities[name]
            z = self.model.encoders[name](modality.on_device(x, None), None)
            there = available[:, i] if z.ndim == 2 else available[:, i, None].expand(z.shape[:2])
            latents[name], present[name] = z * there[..., None], there
        features = tuple(latents.values())
        if "embedding" in self.outputs:
            return self.model.aggregate(latents, present), *features
        if "probabilities" in self.outputs:
            x, _ = self.model.read(latents, present)
            return self.model.probabilities(self.model.head(x)), *features
        return features


def export(run_dir: str | Path, out: str | Path, *, checkpoint: str = "last") -> ExportReport:
    """Write a run's frozen encoders, and its aggregator where it has one, to an ONNX file with a free batch size.

    Inputs are the modalities by name, in the units of the files (a sensor's normalisation lies inside), and
    `available` (B, M) bool; outputs are `embedding` (CroSSL) or `probabilities` (a classifier), and
    `features.<modality>`. The file also says rates, shapes, the order of modalities and the classes, as metadata.

    Args:
        run_dir: folder of the run.
        out: file to write; ends in .onnx.
        checkpoint: "last", "best", or a file.

    Raises:
        ConfigError: a wrong name of the file, a package that is not installed, a part that ONNX cannot express, or
            outputs that differ from the original's; nothing is written then.
    """
    if Path(out).suffix != ".onnx":
        raise ConfigError(f"--out {out}: expected a name that ends in .onnx")
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"export: {', '.join(absent)} not installed; {INSTALL}")
    run = RunDir(Path(run_dir))
    recipe = run.load_recipe()
    model, parts = open_model(run, recipe, checkpoint)
    deployed = Deployed(model.cpu()).eval()
    facts = {"mmssl": __version__, "run": run.root.name, "checkpoint": checkpoint}
    if recipe.finetune is not None:
        facts["classes"] = json.dumps(recipe.finetune.class_names)
    content = _translate(deployed, parts, facts)
    with one_thread():
        session = _session(content)
        parity = compare(deployed, session, parts)
        worst = max(parity.values())
        if not worst <= TOLERANCE:
            raise ConfigError(f"export: the exported outputs differ from the original's by {worst:.2g} of their size, "
                              f"more than {TOLERANCE:g}; nothing was written. Please report it, with the recipe")
        sample = samples(deployed, parts, 1)
        feed = _feed(deployed, *sample)
        times = timed(lambda: session.run(None, feed)), timed(lambda: deployed(*sample))
    write_whole(Path(out), content)
    return ExportReport(Path(out), len(content), parity, *times, _text(Path(out), deployed, content, parity, times))


def samples(deployed: Deployed, parts: dict[str, Any], size: int, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
    """B random samples, in the units of the files for sensors, and which modalities they have: all in the first, then
    each alone, then all but each, and so on by turns."""
    draw, inputs = Rng((seed, "export")), []
    for name in deployed.names:
        part, generator = parts[name], draw.at(name).torch()
        dtype = getattr(part, "dtype", torch.float32)
        if dtype.is_floating_point:
            x = torch.randn(size, *part.shape, generator=generator, dtype=dtype)
            x = x * getattr(part, "std", 1.0) + getattr(part, "mean", 0.0)
        else:
            top = getattr(part, "vocabulary_size", 256)
            x = torch.randint(1, top, (size, *part.shape), generator=generator).to(dtype)
        inputs.append(x)
    count = len(deployed.names)
    alone = torch.eye(count, dtype=torch.bool)
    patterns = torch.cat([torch.ones(1, count, dtype=torch.bool), alone, ~alone])
    return tuple(inputs), patterns[torch.arange(size) % len(patterns)]


def compare(deployed: Deployed, session: Any, parts: dict[str, Any]) -> dict[str, float]:
    """By output, the largest difference between ONNX Runtime and PyTorch over the largest value, at two batch sizes."""
    found = dict.fromkeys(deployed.outputs, 0.0)
    for size, seed in ((1, 1), (2 * len(deployed.names) + 1, 2)):
        inputs, available = samples(deployed, parts, size, seed)
        with torch.no_grad():
            want = deployed(inputs, available)
        have = session.run(None, _feed(deployed, inputs, available))
        for name, w, h in zip(deployed.outputs, want, have, strict=True):
            scale = max(float(w.abs().max()), 1e-6)
            found[name] = max(found[name], float(np.abs(h - w.numpy()).max()) / scale)
    return found


def timed(act: Any) -> tuple[float, float]:
    """Median and 95th percentile of the milliseconds that a call takes."""
    took = []
    for i in range(TIMED + TIMED // 10):
        begin = time.perf_counter()
        with torch.no_grad():
            act()
        took += [time.perf_counter() - begin] if i >= TIMED // 10 else []
    return float(np.median(took) * 1e3), float(np.percentile(took, 95) * 1e3)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _translate(deployed: Deployed, parts: dict[str, Any], facts: dict[str, str]) -> bytes:
    inputs, available = samples(deployed, parts, 3)
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployed, (inputs, available), dynamo=True, verbose=False,
                input_names=[*deployed.names, "available"], output_names=deployed.outputs,
                dynamic_shapes=(tuple({0: batch} for _ in inputs), {0: batch}))
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise ConfigError(f"export: ONNX cannot express this model ({reason}); see which part is meant, and replace "
                          "it by one of plain tensor operations") from error
    proto = program.model_proto
    described = {name: {"shape": list(parts[name].shape), "dtype": str(getattr(parts[name], "dtype", torch.float32)),
                        "rate": getattr(parts[name], "rate", None)} for name in deployed.names}
    for key, value in {**facts, "modalities": json.dumps(described)}.items():
        proto.metadata_props.add(key=f"mmssl.{key}", value=value)
    buffer = io.BytesIO(proto.SerializeToString())
    return buffer.getvalue()


def _session(content: bytes) -> Any:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _feed(deployed: Deployed, inputs: tuple[Tensor, ...], available: Tensor) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in zip([*deployed.names, "available"], [*inputs, available], strict=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own running commentary."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _text(path: Path, deployed: Deployed, content: bytes, parity: dict[str, float],
          times: tuple[tuple[float, float], tuple[float, float]]) -> str:
    (ours, ours95), (torchs, torchs95) = times
    weights = sum(p.numel() for p in deployed.parameters())
    return "\n".join([
        f"{path}: {len(content) / 2**20:.2f} MiB, inputs {', '.join(deployed.names)} and available (B, "
        f"{len(deployed.names)}); outputs {', '.join(deployed.outputs)}; the run's model has {weights:,} parameters",
        "largest difference to PyTorch, relative: " + ", ".join(f"{n} {x:.1e}" for n, x in parity.items())
        + f" (every modality alone and left out; {TOLERANCE:g} would be refused)",
        f"one sample on one thread, median (95th percentile) of {TIMED}: ONNX Runtime {ours:.2f} ms ({ours95:.2f}), "
        f"PyTorch {torchs:.2f} ms ({torchs95:.2f})"])
