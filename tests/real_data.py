"""Where real recordings lie that mmssl does not ship: the folder that MMSSL_TEST_DATA names. Tests skip without it."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("MMSSL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def needs(name: str):
    """Skip a test where a file or folder of the recordings is not there."""
    return pytest.mark.skipif(not (REAL / name).exists(), reason=f"no {name} in {REAL} (MMSSL_TEST_DATA)")
