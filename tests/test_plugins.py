"""Plug-ins: loaded once, only when a name is missing, and named when they fail."""

import textwrap

import pytest

from mmssl import plugins
from mmssl.config import load
from mmssl.errors import ConfigError
from mmssl.recipe_files import recipe_path
from mmssl.registry import LOSSES


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(plugins, "_announced", {})


def write(folder, name, text):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def recipe_with(folder, *sources):
    text = recipe_path("vatt_tiny").read_text()
    return write(folder, "own.yaml", text + f"\nplugins: {list(sources)}\n")


GOOD = '''
    """A loss."""
    from torch import nn
    from mmssl.registry import LOSSES
    print("loaded {name}")

    @LOSSES.register("{name}")
    class Own(nn.Module):
        """Nothing."""
'''


def test_a_file_is_loaded_when_needed_and_once(tmp_path, capsys):
    write(tmp_path, "own_loss.py", GOOD.format(name="own_a"))
    path = recipe_with(tmp_path, "own_loss.py")
    load(path)
    assert "loaded" not in capsys.readouterr().out, "no name is missing, so nothing is loaded"
    for _ in range(2):
        load(path, ["pairs.video-text={name: own_a}"])
    copy = write(tmp_path, "the_same_bytes.py", GOOD.format(name="own_a"))
    plugins.announce(copy, "test")
    plugins.load_waiting()
    assert capsys.readouterr().out.count("loaded own_a") == 1


def test_a_broken_plugin_is_silent_until_something_needs_it(tmp_path):
    write(tmp_path, "broken.py", "raise RuntimeError('no such driver')")
    path = recipe_with(tmp_path, "broken.py")
    load(path)
    with pytest.raises(ConfigError) as caught:
        load(path, ["pairs.video-text={name: unheard}"])
    text = "\n".join(caught.value.problems)
    assert "no loss is called 'unheard'" in text
    assert "broken.py" in text and "RuntimeError: no such driver" in text


def test_two_parts_of_one_name_are_an_error(tmp_path):
    write(tmp_path, "first.py", GOOD.format(name="own_b"))
    write(tmp_path, "second.py", GOOD.format(name="own_b") + "    # other bytes\n")
    with pytest.raises(ConfigError) as caught:
        load(recipe_with(tmp_path, "first.py", "second.py"), ["pairs.video-text={name: unheard_too}"])
    assert "'own_b' is taken" in "\n".join(caught.value.problems)


def test_a_missing_file_is_named_with_where_it_was_sought(tmp_path):
    with pytest.raises(ConfigError, match=r"no file 'gone\.py' in .*" + tmp_path.name):
        load(recipe_with(tmp_path, "gone.py"))


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path, monkeypatch):
    write(tmp_path, "installed_loss.py", GOOD.format(name="own_c"))
    info = tmp_path / "installed_loss-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-loss\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmssl.plugins]\nown = installed_loss\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load("vatt_tiny", ["pairs.video-text={name: own_c}"])
    assert "own_c" in LOSSES.names()
    found = [p for p in plugins.announced() if p.origin == "installed-loss"]
    assert found[0].state == "loaded" and found[0].parts == ["loss own_c"]
