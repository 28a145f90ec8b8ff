"""The linear probe against scikit-learn's lbfgs, and exact retrieval against faiss's flat index, in one run.

    python benchmarks/probe_speed.py --threads 2 --out probe_speed.json      # needs faiss-cpu for its part
    python benchmarks/probe_speed.py --parts million                         # 1,000,000 x 768 rows from a disk

Answers are compared before anything is timed: the classes guessed and the accuracy of the probe, the rows found by
retrieval. Memory is the peak of a process over what it began with, so each of those parts runs in one of its own.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Ratio, against, options, write
from threadpoolctl import threadpool_limits

from mmssl.eval import Labelled, Linear, Ridge, nearest, places, true_ranks
from mmssl.eval.nearest import unit_rows
from mmssl.eval.probes import validation_rows
from mmssl.rng import Rng

PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
MILLION = 1_000_000
PARTS = ("probe", "retrieval", "sort", "memory", "million")


def clusters(rows: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features as an encoder gives them: classes overlap, features are correlated and of unlike scales."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    centres, mix = fixed.normal(size=(classes, width)), fixed.normal(size=(width, width)) / width**0.5
    y = rng.integers(0, classes, rows)
    x = 0.2 * centres[y] + rng.normal(size=(rows, width)) @ (np.eye(width) + mix)
    return (x * np.geomspace(0.3, 3, width)).astype(np.float32), y


def probe_ratios(pairs: int) -> Iterator[Ratio]:
    """For one penalty, and for several of which the best is chosen."""
    for penalties in ([1e-2], PENALTIES):
        yield probe_ratio(pairs, penalties)


def probe_ratio(pairs: int, penalties: list[float]) -> Ratio:
    """Ours and scikit-learn's, for the same penalties: standardise, choose on the same rows, fit, predict."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    (x, y), (x_test, y_test) = clusters(8000, 768, 101, 0), clusters(4000, 768, 101, 1)
    held = validation_rows(y, None, Rng())

    def ours() -> np.ndarray:
        return Linear(penalties).fit(Labelled(x, y), 101, Rng()).output(x_test).argmax(axis=1)

    def theirs() -> np.ndarray:
        best = penalties[0]
        if len(penalties) > 1:
            scaler, model = StandardScaler().fit(x[~held]), LogisticRegression(max_iter=1000, warm_start=True)
            a, b = scaler.transform(x[~held]), scaler.transform(x[held])
            best = max(penalties, key=lambda c: (model.set_params(C=c).fit(a, y[~held]).score(b, y[held]), -c))
        scaler = StandardScaler().fit(x)
        return LogisticRegression(C=best, max_iter=1000).fit(scaler.transform(x), y).predict(scaler.transform(x_test))

    said, other = ours(), theirs()
    accuracy = [float(np.mean(guess == y_test)) for guess in (said, other)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.002 and np.mean(said == other) > 0.99, (accuracy, np.mean(said == other))
    name = f"linear probe 8000 x 768, 101 classes, {len(penalties)} penalt{'ies' if len(penalties) > 1 else 'y'}"
    print(f"{name}: accuracy {accuracy[0]:.4f}, scikit-learn {accuracy[1]:.4f}, {np.mean(said == other):.2%} alike")
    return against(name, ours, theirs, pairs, warm=0)


def rows_to_find() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 queries and a gallery of 50,000, rows of length 1 in 512 dimensions; a query's own row has its number."""
    generator = torch.Generator().manual_seed(0)
    gallery = unit_rows(torch.randn(50_000, 512, generator=generator))[0]
    return unit_rows(gallery[:5000] + 0.05 * torch.randn(5000, 512, generator=generator))[0], gallery


def faiss_ratios(pairs: int) -> list[Ratio]:
    """The 20 nearest of 50,000 rows for 5,000 queries."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: `pip install faiss-cpu` for its part")
        return []
    queries, gallery = rows_to_find()
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(512)
    index.add(gallery.numpy())
    scores, found = nearest(queries, gallery, 20)
    theirs, other = index.search(queries.numpy(), 20)
    assert np.allclose(scores.numpy(), theirs, atol=1e-5) and np.mean(found.numpy() == other) > 0.999
    return [against("20 nearest, 5,000 x 50,000 x 512, faiss flat", lambda: nearest(queries, gallery, 20),
                    lambda: index.search(queries.numpy(), 20), pairs)]


def sort_ratios(pairs: int) -> list[Ratio]:
    """The place of each query's own row among 50,000, against sorting all scores."""
    queries, gallery = rows_to_find()

    def by_sort() -> torch.Tensor:
        order = (queries @ gallery.T).argsort(dim=1, descending=True)
        return (order == torch.arange(5000)[:, None]).nonzero()[:, 1]

    def by_count() -> torch.Tensor:
        return places(queries, gallery, torch.arange(5000), torch.arange(50_000))[0]

    assert torch.equal(by_count(), by_sort())
    return [against("place of the own row, the same, full sort", by_count, by_sort, pairs)]


def peak(part: Callable[..., None], *args: object) -> dict[str, float]:
    """Seconds and peak memory (MiB over what it begins with) of a function in a process of its own."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measured, args=(send, part, *args))
    process.start()
    found = receive.recv()
    process.join()
    return found


def _measured(send: object, part: Callable[..., None], threads: int, *args: object) -> None:
    torch.set_num_threads(threads)
    part(*args, warm=True)  # what libraries take once
    with threadpool_limits(threads):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        before, begin = resident("VmRSS"), time.perf_counter()
        said = part(*args)
        send.send({"seconds": time.perf_counter() - begin, "said": said, "MiB": resident("VmHWM") - before})


def resident(which: str) -> float:
    """Memory of this process in MiB: "VmRSS" now, "VmHWM" at its peak."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(which))
    return int(line.split()[1]) / 1024


def rank_part(rows: int, warm: bool = False) -> float:
    """R@10 of `rows` pairs in 512 dimensions."""
    rows = 64 if warm else rows
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 512, generator=generator)
    return (true_ranks(x, x + torch.randn(rows, 512, generator=generator)) < 10).double().mean().item()


def million_part(kind: str, path: str, warm: bool = False) -> float:
    """Accuracy on the last 20,000 rows of a probe that learns from the others, which lie on a disk."""
    x, y = np.load(path, mmap_mode="r"), np.load(path.replace("x.npy", "y.npy"))
    if warm:
        x, y = x[-20_500:], y[-20_500:]
    probe = Ridge() if kind == "ridge" else Linear([1e-4])
    fitted = probe.fit(Labelled(x, y).take(np.arange(len(y) - 20_000)), 10, Rng())
    return float(np.mean(fitted.output(x[-20_000:]).argmax(axis=1) == y[-20_000:]))


def write_million(folder: Path, rows: int, classes: int = 10) -> str:
    """Features of `rows` samples in 16 bits, in a file."""
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float16, (rows, 768))
    labels = []
    for start in range(0, rows, 20_000):
        block, y = clusters(min(20_000, rows - start), 768, classes, start)
        x[start:start + len(block)] = block
        labels.append(y)
    x.flush()
    np.save(folder / "y.npy", np.concatenate(labels))
    return str(folder / "x.npy")


#: By part, what is timed against another library.
RATIOS = {"probe": probe_ratios, "retrieval": faiss_ratios, "sort": sort_ratios}


def main() -> None:
    """Run the parts asked for and print them."""
    parser = options(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:-1]), help="default: all but million")
    parser.add_argument("--rows", type=int, default=MILLION, help="of the part million")
    args = parser.parse_args()
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    results, memory = [], {}
    with threadpool_limits(threads):
        for part in args.parts:
            for found in RATIOS[part](args.pairs) if part in RATIOS else []:
                results.append(found)
                print(found.line("other"), flush=True)
    if "memory" in args.parts:
        for rows in (5000, 20_000):
            memory[f"retrieval {rows} x {rows} x 512"] = peak(rank_part, threads, rows)
    if "million" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            path = write_million(Path(folder), args.rows)
            for kind in ("ridge", "linear"):
                memory[f"{kind} probe, {args.rows:,} x 768 from a disk"] = peak(million_part, threads, kind, path)
    for name, found in memory.items():
        print(f"{name:<44} {found['seconds']:8.1f} s   {found['MiB']:8.0f} MiB more   said {found['said']:.4f}")
    write(args.out, results, memory=memory, threads=threads, command=" ".join(sys.argv))


if __name__ == "__main__":
    main()
