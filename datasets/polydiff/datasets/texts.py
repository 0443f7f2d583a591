"""Texts: Python's own reference manual, Shakespeare's lines, first names."""

from __future__ import annotations

import io
import zipfile

from polydiff.datasets.folder import read_checked

__all__ = ["first_names", "python_topics", "tinyshakespeare"]

_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_NAMES = "0eec7e958b34982662b8f05824ae64642dea097b08057ade65c252191c5fe7ca"


def python_topics() -> str:
    """The reference texts behind ``help('topics')``, as shipped with CPython: about 465,000 characters of English and code.

    They differ a little between versions of Python; figures name the version.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def tinyshakespeare() -> tuple[str, str]:
    """Lines of Shakespeare's plays, 1,115,394 characters: the first 90 % for training, the rest held out.

    Source: karpathy/char-rnn, data/tinyshakespeare; read from the data folder.
    """
    text = read_checked("text/tinyshakespeare.txt.gz", _SHAKESPEARE).decode("utf-8")
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def first_names() -> tuple[list[str], list[str]]:
    """7,944 first names and for each ``"female"`` or ``"male"``, sorted; some names occur with both.

    Source: names corpus of Mark Kantrowitz, as in NLTK; read from the data folder.
    """
    archive = zipfile.ZipFile(io.BytesIO(read_checked("text/names.zip", _NAMES)))
    names: list[str] = []
    labels: list[str] = []
    for label in ("female", "male"):
        found = [line.strip() for line in archive.read(f"names/{label}.txt").decode("utf-8").splitlines()]
        names += (kept := sorted(name for name in found if name))
        labels += [label] * len(kept)
    return names, labels
