"""Everything shown runs: python blocks of README and docs, shell commands, examples in docstrings; without a network."""

import doctest
import importlib
import pkgutil
import re
import shlex
import socket
from pathlib import Path

import pytest

import polydiff.core
import polydiff.datasets
import polydiff.images
import polydiff.tabular
import polydiff.text
import polydiff.timeseries

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
BLOCK = re.compile(r"(<!-- skip: (?P<why>[^>]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
ROOTS = (polydiff.core, polydiff.images, polydiff.text, polydiff.tabular, polydiff.timeseries, polydiff.datasets)
MODULES = sorted(
    {m.name for root in ROOTS for m in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")} | {"polydiff.cli"}
)


def blocks(page, kind):
    return [m for m in BLOCK.finditer((ROOT / page).read_text()) if m["kind"] == kind and not m["why"]]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "snippet"}
    for block in blocks(page, "python"):
        line = (ROOT / page).read_text()[: block.start()].count("\n") + 1
        exec(compile(block["text"], f"{page}:{line}", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(script.read_text(), script.name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")])
def test_shell_commands_exist(page):
    from polydiff.cli import main

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "bash"):
        for line in block["text"].splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert words[1] in targets, f"{page}: there is no target {words[1]}"
            elif words[:1] == ["polydiff"]:
                with pytest.raises(SystemExit) as done:
                    main([words[1], "--help"])
                assert done.value.code == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    failed, _ = doctest.testmod(
        module,
        extraglobs={"torch": importlib.import_module("torch"), **vars(module)},
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert failed == 0
