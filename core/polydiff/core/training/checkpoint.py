"""Artefacts on disk: a folder that exists whole or not at all, holds data only, and notices damage."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import types
import typing
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Artifact", "CorruptCheckpoint", "config_from_json", "config_to_json", "read_artifact", "write_artifact"]

MANIFEST = "manifest.json"
FORMAT = 1
C = TypeVar("C")


class CorruptCheckpoint(ValueError):
    """A saved folder is missing, incomplete, damaged, or not one of ours."""


# ------------------------------------------------------------------ writing


def write_artifact(folder: str | Path, files: Mapping[str, Any]) -> Path:
    """Write ``files`` as a folder that appears at once, in place of an earlier one.

    Everything goes to a temporary sibling first and is flushed to disk; an earlier folder is moved aside, the new one
    moved in, and the earlier one deleted. Whenever the process or the machine stops, one whole artefact can be read.

    Args:
        folder: Where it shall be.
        files: By name: mappings of tensors for ``.safetensors``, JSON values for ``.json``, text or bytes otherwise.

    Raises:
        OSError: If the disk refuses (full, read-only); the earlier artefact is untouched and nothing new is visible.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    scratch, aside = _sibling(folder, "tmp", mark), _sibling(folder, "old", mark)
    try:
        scratch.mkdir()
        entries = {name: _write(scratch / _plain(name), _encode(name, value)) for name, value in files.items()}
        _write(scratch / MANIFEST, _json({"format": FORMAT, "files": entries}))
        _sync(scratch)
        replaced = folder.exists()
        if replaced:
            os.rename(folder, aside)
        try:
            os.rename(scratch, folder)
        except BaseException:
            if replaced:
                os.rename(aside, folder)
            raise
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    return folder


def _sibling(folder: Path, kind: str, mark: str) -> Path:
    return folder.parent / f".{kind}-{folder.name}-{mark}"


def _plain(name: str) -> str:
    if name in ("", ".", "..", MANIFEST) or Path(name).name != name:
        raise ValueError(f"{name!r} is no plain file name")
    return name


def _encode(name: str, value: Any) -> bytes:
    if name.endswith(".safetensors"):
        from safetensors.torch import save

        # A copy each: tied or overlapping tensors are stored once a name, in full.
        return save({k: v.detach().cpu().clone().contiguous() for k, v in value.items()})
    if name.endswith(".json"):
        return _json(value)
    return value if isinstance(value, bytes) else str(value).encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> dict[str, Any]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(folder: Path) -> None:
    """Finish or undo what dead processes left beside ``folder``."""
    for path in sorted(folder.parent.glob(f".*-{folder.name}-*-*")):
        kind, _, mark = path.name[1:].partition(f"-{folder.name}-")
        pid = mark.partition("-")[0]
        if kind not in ("tmp", "old") or not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
            continue
        if kind == "old" and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ------------------------------------------------------------------ reading


@dataclasses.dataclass(frozen=True)
class Artifact:
    """The verified files of a folder, still undecoded."""

    folder: Path
    files: Mapping[str, bytes]

    def _get(self, name: str) -> bytes:
        if name not in self.files:
            raise CorruptCheckpoint(f"{self.folder} has no {name}: it is not a whole checkpoint")
        return self.files[name]

    def json(self, name: str) -> Any:
        """A JSON file."""
        try:
            return json.loads(self._get(name))
        except ValueError as error:
            raise CorruptCheckpoint(f"{self.folder / name} is no JSON: {error}") from None

    def tensors(self, name: str, *, missing_ok: bool = False) -> dict[str, Tensor]:
        """A safetensors file."""
        if missing_ok and name not in self.files:
            return {}
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self._get(name))
        except (SafetensorError, ValueError) as error:
            raise CorruptCheckpoint(f"{self.folder / name} is no safetensors file: {error}") from None


def read_artifact(folder: str | Path) -> Artifact:
    """All files of an artefact, each checked against its size and digest before anything is parsed.

    Raises:
        CorruptCheckpoint: Naming the file that is missing, truncated, changed, unexpected or a link.
    """
    folder = Path(folder).absolute()
    if not folder.exists():
        _clean(folder)  # a crash between the two renames left the earlier one aside
    if not folder.is_dir():
        raise CorruptCheckpoint(f"{folder} is no folder: there is no checkpoint")
    manifest = folder / MANIFEST
    if not manifest.is_file() or manifest.is_symlink():
        raise CorruptCheckpoint(f"{manifest} is missing: this is not a checkpoint of polydiff")
    try:
        head = json.loads(manifest.read_bytes())
        entries = {_plain(k): (int(v["size"]), str(v["sha256"])) for k, v in head["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{manifest} is damaged: {error}") from None
    if head.get("format") != FORMAT:
        raise CorruptCheckpoint(f"{manifest} has format {head.get('format')!r}: this version reads {FORMAT}")
    found = {p.name for p in folder.iterdir()} - {MANIFEST}
    if extra := sorted(found - set(entries)):
        raise CorruptCheckpoint(f"{folder / extra[0]} is not in the manifest: remove what does not belong there")
    files = {}
    for name, (size, digest) in entries.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise CorruptCheckpoint(f"{path} is missing")
        content = path.read_bytes()
        if len(content) != size:
            raise CorruptCheckpoint(f"{path} has {len(content)} bytes where {size} were written: it is truncated")
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptCheckpoint(f"{path} is not what was written: its sha256 differs from the manifest")
        files[name] = content
    return Artifact(folder, files)


# ------------------------------------------------------------------ configurations


def config_to_json(config: Any) -> dict[str, Any]:
    """A frozen dataclass of plain values, nested ones included, as JSON values."""
    return {f.name: _to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_json(value)
    if isinstance(value, (tuple, list)):
        return [_to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _to_json(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} is no plain value: a configuration holds numbers, texts, tuples and dataclasses")


def config_from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """The dataclass from its JSON form.

    Raises:
        CorruptCheckpoint: For a key that the class does not know, naming the ones it does, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise CorruptCheckpoint(f"the configuration is {type(values).__name__}, not a table of {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise CorruptCheckpoint(
            f"unknown key {unknown[0]!r} in the configuration: {cls.__name__} knows {', '.join(fields)}"
        )
    hints = typing.get_type_hints(cls)
    try:
        return cls(**{k: _from_json(hints[k], v, k) for k, v in values.items()})
    except CorruptCheckpoint:
        raise
    except (TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"the configuration is no {cls.__name__}: {error}") from None


def _from_json(hint: Any, value: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        good = value in arguments
    elif origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(CorruptCheckpoint):
                return _from_json(option, value, key)
        good = False
    elif dataclasses.is_dataclass(hint):
        return config_from_json(hint, value)  # type: ignore[arg-type]
    elif origin in (tuple, list):
        if not isinstance(value, list):
            raise CorruptCheckpoint(f"{key}={value!r} in the configuration: need a list")
        return origin(_from_json(arguments[0], v, key) for v in value)
    elif hint is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if good else value
    elif hint is type(None):
        good = value is None
    else:
        good = type(value) is hint or hint in (Any, dict) or origin is dict
    if not good:
        raise CorruptCheckpoint(f"{key}={value!r} in the configuration: need {getattr(hint, '__name__', hint)}")
    return value


def state_hash(tensors: Mapping[str, Tensor]) -> str:
    """A digest of named tensors, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
