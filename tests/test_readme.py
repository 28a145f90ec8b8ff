"""The README's Python is run as it stands, with fewer steps."""

import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
TEXT = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        fewer = re.sub(r"max_steps=\d+", "max_steps=3", block).replace(
            '"trainer.max_steps=3"', '"trainer.max_steps=3", "probe.seeds=1", "probe.fractions=[0.1]"')
        assert fewer != block
        exec(compile(fewer, "README.md", "exec"), names)
    assert names["model"].global_step == 3
    assert "linear probe for 'exercise'" in capsys.readouterr().out
    assert (tmp_path / "runs" / "crossl" / "probe.json").is_file()
