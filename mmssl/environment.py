"""What a run ran on, and whether this machine can run one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "torchaudio", "lightning", "torchmetrics", "timm", "omegaconf", "webdataset",
            "tensorboard", "av", "scikit-learn", "numpy", "jaxtyping", "seglearn")
#: Minor versions of torchvision and torchaudio that were built for a minor version of torch.
MATCHES = {"2.11": {"torchvision": "0.26", "torchaudio": "2.11"}}


def versions() -> dict[str, str]:
    """Installed version by package; "absent" where there is none."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds `folder`, and whether files in it are changed; None outside a checkout."""
    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None
    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "changed": bool(ask("status", "--porcelain"))} if commit else None


def describe() -> dict[str, Any]:
    """Versions, git states, machine and devices, as plain data for `environment.json`. Imports torch."""
    import torch

    from mmssl import __version__
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "mmssl": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "packages": versions(), "command": sys.argv, "threads": torch.get_num_threads(), "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "git": {"package": git_state(Path(__file__).parent), "working_directory": git_state(Path.cwd())},
    }


def cpu_lacks_bfloat16() -> bool:
    """Whether this is a CPU known to have no bfloat16 instructions (AVX-512 BF16, AMX), so that they are emulated,
    slower than float32. False where PyTorch cannot tell, as on ARM. Imports torch."""
    import torch

    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return platform.machine().lower() in ("x86_64", "amd64") and None not in asked and not any(f() for f in asked)


def doctor() -> tuple[str, bool]:
    """Look for what commonly breaks an installation; import each library in a process of its own.

    Returns:
        lines for the user, and True where everything needed works.
    """
    found = versions()
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    troubles = _pairing(found)
    for name, module in (("torch", "torch"), ("torchvision", "torchvision"), ("torchaudio", "torchaudio"),
                         ("lightning", "lightning"), ("timm", "timm"), ("webdataset", "webdataset"), ("av", "av")):
        error = _import_error(module)
        lines.append(f"{name:<14} {found[name]:<16} {'imports' if error is None else 'DOES NOT IMPORT'}")
        if error is not None:
            troubles.append(f"import {module} fails: {error}; reinstall with the set in constraints.txt")
    codecs = _import_error("av; av.codec.Codec('libx264', 'w'); av.codec.Codec('flac', 'w')")
    lines.append(f"{'h264 and flac':<14} {'write and read' if codecs is None else 'MISSING'}")
    if codecs is not None:
        troubles.append(f"PyAV cannot encode h264 and flac ({codecs}); install its own wheel: "
                        "pip install --force-reinstall av")
    if found["seglearn"] == "absent":
        lines.append("seglearn       absent           only demo:signals needs it: pip install 'mmssl[demo]'")
    lines.append(_devices())
    free = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    lines.append(f"{'free disk':<14} {free:.1f} GiB in {tempfile.gettempdir()}")
    lines += [f"TROUBLE: {t}" for t in troubles] or ["all that mmssl needs works here"]
    return "\n".join(lines), not troubles


def _pairing(found: dict[str, str]) -> list[str]:
    minor = ".".join(found["torch"].split(".")[:2])
    if minor not in MATCHES:
        return [f"torch {found['torch']} is not one that mmssl knows ({', '.join(MATCHES)}); "
                "reinstall with the set in constraints.txt"]
    return [f"{name} {found[name]} was not built for torch {minor}; expected {name} {want}.*"
            for name, want in MATCHES[minor].items() if not found[name].startswith(f"{want}.")]


def _import_error(statement: str) -> str | None:
    answer = subprocess.run([sys.executable, "-c", f"import {statement}"], capture_output=True, text=True)
    if answer.returncode == 0:
        return None
    return (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]


def _devices() -> str:
    code = ("import torch; from mmssl.environment import cpu_lacks_bfloat16; n = torch.cuda.device_count(); "
            "print(', '.join(torch.cuda.get_device_name(i) for i in range(n)) or "
            "f'CPU, {torch.get_num_threads()} threads' + ', no bfloat16 instructions' * cpu_lacks_bfloat16())")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return f"{'devices':<14} {answer.stdout.strip() or 'unknown: torch does not import'}"
