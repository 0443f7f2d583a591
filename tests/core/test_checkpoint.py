"""Artefacts: whole or not at all, damage noticed, nothing executed."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from polydiff.core.training import checkpoint
from polydiff.core.training.checkpoint import (
    CorruptCheckpoint,
    config_from_json,
    config_to_json,
    read_artifact,
    state_hash,
    write_artifact,
)

TENSORS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}


def files(value):
    return {
        "config.json": {"value": value},
        "model.safetensors": {k: v + value for k, v in TENSORS.items()},
        "README.md": "hi",
    }


def value_of(folder):
    return read_artifact(folder).json("config.json")["value"]


def test_round_trip_is_bit_exact_for_awkward_tensors(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "tied": base,
        "also": base,
        "strided": base.T[::2],
        "bf16": base.bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }
    write_artifact(tmp_path / "a", {"t.safetensors": tensors})
    back = read_artifact(tmp_path / "a").tensors("t.safetensors")
    assert set(back) == set(tensors)
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())


def test_a_second_save_replaces_the_first_and_leaves_nothing_behind(tmp_path):
    for value in (1, 2):
        write_artifact(tmp_path / "a", files(value))
    assert value_of(tmp_path / "a") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "link"])
def test_damage_is_noticed_and_named(tmp_path, name, harm):
    folder = write_artifact(tmp_path / "a", files(1))
    path = folder / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-2])
    elif harm == "delete":
        path.unlink()
    else:
        (tmp_path / "elsewhere").write_bytes(content)
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        CorruptCheckpoint, match=name.replace(".", r"\.") if name != "manifest.json" or harm != "flip" else "."
    ):
        read_artifact(folder).json("config.json")


def test_every_single_bit_of_the_weights_is_guarded(tmp_path):
    folder = write_artifact(tmp_path / "a", files(1))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        with pytest.raises(CorruptCheckpoint):
            read_artifact(folder)


def test_strangers_in_the_folder_are_refused(tmp_path):
    folder = write_artifact(tmp_path / "a", files(1))
    (folder / "payload.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(CorruptCheckpoint, match=r"payload\.pkl"):
        read_artifact(folder)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "..", "manifest.json"])
def test_names_that_are_paths_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain file name"):
        write_artifact(tmp_path / "a", {name: "x"})
    folder = write_artifact(tmp_path / "b", files(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptCheckpoint):
        read_artifact(folder)


# ------------------------------------------------------------------ faults


class Faulty:
    """Fails the n-th call of one system function."""

    def __init__(self, real, nth, code):
        self.real, self.left, self.code, self.fired = real, nth, code, False

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.fired = True
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **kwargs)


@pytest.mark.parametrize("function", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_the_previous_artefact_survives_a_fault_in_any_system_call(tmp_path, monkeypatch, function, code):
    folder, fired = tmp_path / "a", 0
    write_artifact(folder, files(1))
    for nth in range(1, 40):
        fault = Faulty(getattr(os, function), nth, code)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, function, fault)
            with contextlib.suppress(OSError):
                write_artifact(folder, files(2))
        if not fault.fired:
            break
        fired += 1
        # The last flush comes after the new artefact is in place: then the new one is what survives.
        assert value_of(folder) in ((1, 2) if function in ("fsync", "open") else (1,))
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]
        write_artifact(folder, files(1))
    assert fired >= 2


@pytest.mark.slow
def test_the_previous_artefact_survives_a_kill_at_any_system_call(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from polydiff.core.training import checkpoint
        import torch
        nth, folder = int(sys.argv[1]), sys.argv[2]
        count = 0
        def deadly(real):
            def call(*a, **k):
                global count
                count += 1
                if count == nth: os.kill(os.getpid(), signal.SIGKILL)
                return real(*a, **k)
            return call
        for name in ("open", "write", "fsync", "rename", "close"):
            setattr(os, name, deadly(getattr(os, name)))
        checkpoint.write_artifact(folder, {"config.json": {"value": 2}, "m.safetensors": {"w": torch.ones(3)}})
    """)
    folder, killed = tmp_path / "a", 0
    for nth in range(1, 60, 2):
        write_artifact(folder, files(1))
        done = subprocess.run([sys.executable, "-c", script, str(nth), str(folder)], check=False, capture_output=True)
        assert value_of(folder) in (1, 2)
        if done.returncode == 0:
            break
        killed += 1
    assert killed >= 5
    write_artifact(folder, files(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "what dead processes left behind is cleaned"


def test_a_failed_exchange_puts_the_previous_artefact_back(tmp_path, monkeypatch):
    write_artifact(tmp_path / "a", files(1))
    rename = os.rename

    def refuse_the_new(source, target):
        if Path(target) == tmp_path / "a" and ".tmp" in str(source):
            raise OSError("the file system went read-only")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(OSError, match="read-only"):
        write_artifact(tmp_path / "a", files(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "at once, not at the next read"
    assert value_of(tmp_path / "a") == 1


def test_a_really_full_disk_leaves_the_previous_artefact(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        write_artifact(disk / "a", files(1))
        with pytest.raises(OSError, match="No space left"):
            write_artifact(disk / "a", {"config.json": {"value": 2}, "big.safetensors": {"w": torch.zeros(10**6)}})
        assert value_of(disk / "a") == 1
        assert [p.name for p in disk.iterdir()] == ["a"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ------------------------------------------------------------------ configurations


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    limit: int | None = None
    flag: bool = False


def test_configurations_round_trip():
    config = Outer("y", 1e-3, (3,), "b", Inner(5), 7, True)
    assert config_from_json(Outer, json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "z"}, "unknown key 'nmae'.*name"),
        ({"inner": {"depht": 1}}, "unknown key 'depht'.*depth"),
        ({"rate": "fast"}, "rate='fast'"),
        ({"kind": "c"}, "kind='c'"),
        ({"sizes": 3}, "sizes=3"),
        ({"flag": 1}, "flag=1"),
    ],
)
def test_wrong_configurations_are_refused_in_a_sentence(change, words):
    with pytest.raises(CorruptCheckpoint, match=words):
        config_from_json(Outer, config_to_json(Outer()) | change)


def test_no_code_is_loaded_from_a_configuration():
    with pytest.raises(CorruptCheckpoint, match="_target_"):
        config_from_json(Outer, {"_target_": "os.system", "name": "echo"})


def test_hash_ignores_order_and_sees_every_bit():
    a = {"x": torch.ones(3), "y": torch.zeros(2)}
    assert state_hash(a) == state_hash(dict(reversed(a.items())))
    assert state_hash(a) != state_hash(a | {"y": torch.tensor([0.0, -0.0])})
    assert state_hash(a) != state_hash(a | {"x": torch.ones(3).double()})
