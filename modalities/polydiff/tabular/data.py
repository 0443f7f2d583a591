"""Tables to tensors and back: numbers as normal scores, everything else as levels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polydiff.tabular.conditions import held, levels_of
from polydiff.tabular.frames import Unseen, matched
from polydiff.tabular.layout import Entries, Layout
from polydiff.tabular.schema import Schema
from polydiff.tabular.transforms import NumberTransform
from polydiff.tabular.values import Kind, Name

__all__ = ["Entries", "TableCodec"]


class TableCodec(Layout):
    """DataFrames to ``{"num": float32 (N, Dn), "cat": int64 (N, Dc)}``; a key is absent where no column needs it.

    A category is an entry of ``cat``, with a last level for missing where the training data had missing values. A numeric,
    integer or datetime column is an entry of ``num``; where it has spikes or missing values, a companion entry of ``cat``
    says what the number is (0 continuous, then the spikes, then missing), and the number counts only where that is 0:
    elsewhere it is 0 and not ``valid``. Constants are left out and filled back.

    Decoding gives back columns, order, dtypes, category sets, missing values, categories, booleans and spikes exactly, and
    numbers to float32's resolution of their score, which rounding makes exact for integers and datetimes of up to about a
    million steps and for a few decimals. −0.0 becomes 0.0, and the row index is not kept.

    Args:
        schema: Of the columns.
        transforms: Of the numeric, integer and datetime columns, by their number in the schema.
    """

    def __init__(self, schema: Schema, transforms: Mapping[int, NumberTransform]) -> None:
        super().__init__(
            schema, {i: t.states for i, t in transforms.items()}, {i: t.missing for i, t in transforms.items()}
        )
        self.transforms = dict(transforms)

    @classmethod
    def fit(
        cls,
        df: pd.DataFrame,
        schema: Schema | None = None,
        *,
        overrides: Mapping[Name, Kind] | None = None,
        quantiles: int = 1000,
        spike: float = 0.04,
    ) -> TableCodec:
        """The codec of training data.

        Args:
            df: The training data.
            schema: Of its columns; inferred with ``overrides`` where there is none.
            overrides: Kinds by column name.
            quantiles: Most knots of a quantile transform.
            spike: Share of the rows that makes a value a spike.

        Raises:
            ValueError: For what ``Schema.infer`` refuses, and for a table of constants.
        """
        if schema is None:
            schema = Schema.infer(df, overrides)
        elif overrides:
            raise ValueError(f"overrides={dict(overrides)!r} beside a schema: pass them to Schema.infer")
        if all(c.kind == "constant" for c in schema):
            first = schema.columns[0]
            held = repr(first.of_codes(np.zeros(1, dtype=np.int64)).astype(object)[0]) if first.levels else "missing"
            raise ValueError(
                f"every column is constant (column {first.name!r} is always {held}): there is nothing to learn"
            )
        found = matched(schema.columns, df, partial=False)
        transforms = {
            i: NumberTransform.fit(c.numbers(found[i]), quantiles=quantiles, spike=spike)
            for i, c in enumerate(schema)
            if c.continuous
        }
        return cls(schema, transforms)

    # -------------------------------------------------------------- encoding

    def encode(self, natural: Any, *, unseen: Unseen = "error") -> dict[str, Tensor]:
        """Data of a table with the columns of the training data, in any order.

        Numbers outside the range that was seen are clamped to it.

        Args:
            natural: A DataFrame.
            unseen: ``"missing"`` takes a category that the training data lacked for a missing value.

        Raises:
            ValueError: For missing or further columns, unseen categories, infinite numbers, missing values in a column that
                had none, or another value in a constant column.
        """
        found = matched(self.schema.columns, natural, partial=False, unseen=unseen)
        data, missing = self._encode(found, len(natural))
        for column, gone in zip(self.schema, missing):
            if gone.any() and not column.has_missing:
                raise column.error(f"has no value in row {int(np.argmax(gone))}, but had no missing ones when fitted")
        return data

    def _encode(self, found: Mapping[int, pd.Series], n: int) -> tuple[dict[str, Tensor], list[np.ndarray]]:
        """Data (zero where missing without a level for it), and by column where values are missing."""
        num = np.zeros((n, self.numbers), dtype=np.float32)
        cat = np.zeros((n, self.categories), dtype=np.int64)
        missing = []
        for i, (column, at) in enumerate(zip(self.schema, self.entries)):
            if (series := found.get(i)) is None:
                missing.append(np.ones(n, dtype=bool))
                continue
            if column.continuous:
                numbers = column.numbers(series)
                scores, codes = self.transforms[i].encode(numbers)
                num[:, at.num[0]] = scores
                gone = np.isnan(numbers)
            else:
                codes = column.codes(series)
                gone = codes < 0
                codes = np.where(gone, len(column.levels) if column.has_missing else 0, codes)
            if at.cat:
                cat[:, at.cat[0]] = codes.clip(0)
            missing.append(gone)
        data = {"num": torch.from_numpy(num), "cat": torch.from_numpy(cat)}
        return {k: v for k, v in data.items() if v.shape[1]}, missing

    # -------------------------------------------------------------- decoding

    def decode(self, data: Mapping[str, Tensor]) -> pd.DataFrame:
        """The table of data: columns, order and dtypes of the training data.

        Raises:
            ValueError: For a number that counts and is not finite, or a level that does not exist.
        """
        n = len(next(iter(data.values())))
        empty = np.zeros((n, 0))
        num = data["num"].detach().cpu().double().numpy() if "num" in data else empty
        cat = data["cat"].detach().cpu().numpy() if "cat" in data else empty.astype(np.int64)
        if num.shape[1:] != (self.numbers,) or cat.shape[1:] != (self.categories,):
            raise ValueError(
                f"data with {num.shape[1]} numbers and {cat.shape[1]} levels a row: this table has {self.numbers} and "
                f"{self.categories}"
            )
        series = []
        for i, (column, at) in enumerate(zip(self.schema, self.entries)):
            codes = cat[:, at.cat[0]] if at.cat else np.zeros(n, dtype=np.int64)
            if at.cat and not ((codes >= 0) & (codes < self.sizes[at.cat[0]])).all():
                wrong = int(np.argmax((codes < 0) | (codes >= self.sizes[at.cat[0]])))
                raise column.error(f"has level {codes[wrong]} in row {wrong}: there are {self.sizes[at.cat[0]]}")
            if column.continuous:
                scores = num[:, at.num[0]]
                if not np.isfinite(scores[codes == 0]).all():
                    raise column.error("has a score that is not finite: the model or its sampler diverged")
                series.append(column.of_numbers(self.transforms[i].decode(scores, codes)))
            else:
                series.append(column.of_codes(np.where(codes < len(column.levels), codes, -1)))
        out = pd.concat(series, axis=1, ignore_index=True)
        out.columns = pd.Index(self.schema.names)
        return out

    # -------------------------------------------------------------- given values

    def given(self, where: Mapping[Name, Any], n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Data of n rows with columns held at values, and bool masks of the entries that are.

        A held number holds its companion too. ``None`` or NaN holds a column missing.

        Args:
            where: Values by column name.
            n: Number of rows.

        Raises:
            ValueError: For an unknown column, an unseen category (at most 10 are listed), a number outside the range that was
                seen or between the values that the column can take, or a missing value in a column that had none.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n={n!r}: the number of rows must be an integer of at least 1")
        found = {(i := self.schema.place(name)): held(self.schema.columns[i], v) for name, v in where.items()}
        data, missing = self._encode(found, 1)
        for i in found:
            column = self.schema.columns[i]
            if missing[i][0] and not column.has_missing:
                raise column.error("had no missing values when fitted: it cannot be held missing")
        known = self.masks({i: np.ones(1, dtype=bool) for i in found}, 1)
        return {k: v.repeat(n, 1) for k, v in data.items()}, {k: v.repeat(n, 1) for k, v in known.items()}

    def given_frame(
        self, df: pd.DataFrame, *, missing: Literal["hole", "value", "level"] = "hole", unseen: Unseen = "error"
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Data of a table with holes, and bool masks of the entries that are given.

        Columns may be left out: they are holes throughout.

        Args:
            df: Rows; NaN, None, NaT and NA are missing.
            missing: ``"hole"``: a missing value is unknown and shall be filled in; ``"value"``: it is known to be missing;
                ``"level"``: the latter where the training data had missing values, else the former.
            unseen: ``"missing"`` takes a category that the training data lacked for a missing value.

        Raises:
            ValueError: As in ``encode``, but that holes may be anywhere.
        """
        if missing not in ("hole", "value", "level"):
            raise ValueError(f"missing={missing!r}: need 'hole', 'value' or 'level'")
        found = matched(self.schema.columns, df, partial=True, unseen=unseen)
        data, gone = self._encode(found, len(df))
        given = {}
        for i in found:
            column = self.schema.columns[i]
            if missing == "value" and gone[i].any() and not column.has_missing:
                raise column.error(
                    f"has no value in row {int(np.argmax(gone[i]))}, but had no missing ones when fitted"
                )
            known = missing == "value" or (missing == "level" and column.has_missing)
            given[i] = np.ones(len(df), dtype=bool) if known else ~gone[i]
        return data, self.masks(given, len(df))

    def allowed(self, sets: Mapping[Name, Collection[Any]], *, missing: bool = True) -> Tensor | None:
        """Levels that rows may take, bool ``(Dc, max(sizes))``; ``None`` where all are.

        Args:
            sets: Allowed values of categories, by column name; ``None`` or NaN among them is missing.
            missing: Whether values may be missing in the other columns.

        Raises:
            ValueError: For an unknown column or category, an empty set, or a set of numbers.
        """
        if not self.sizes or not (sets or (not missing and any(m is not None for m in self.missing))):
            return None
        table = torch.arange(max(self.sizes)) < torch.tensor(self.sizes)[:, None]
        for entry, level in enumerate(self.missing):
            if level is not None and not missing:
                table[entry, level] = False
        for name, values in sets.items():
            column, (at, *_) = self.schema.columns[self.schema.place(name)], (*self.columns_of(name).cat, -1)
            codes = levels_of(column, values)
            if at >= 0:
                table[at] = False
                table[at, codes] = True
        return table

    def fill(self, df: pd.DataFrame, decoded: pd.DataFrame, *, unseen: Unseen = "error") -> pd.DataFrame:
        """``decoded`` with every value that ``df`` has put back unrounded, in types of the training data and rows of ``df``.

        Args:
            df: The table with holes.
            decoded: The same rows, completed.
            unseen: ``"missing"`` keeps what was decoded in the place of a category that the training data lacked.
        """
        found = matched(self.schema.columns, df, partial=True, unseen=unseen)
        out = decoded.copy()
        for i, series in found.items():
            there = series.notna().to_numpy(dtype=bool)
            if there.any():
                column = self.schema.columns[i]
                kept = out[column.name].copy()
                kept[there] = series[there].astype(kept.dtype).array
                out[column.name] = kept
        out.index = df.index
        return out

    # -------------------------------------------------------------- saving

    def config(self) -> Mapping[str, Any]:
        """See ``Codec``."""
        return {
            "schema": self.schema.to_json(),
            "has_missing": {str(i): t.has_missing for i, t in self.transforms.items()},
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """See ``Codec``: knots, scores and spikes of each transform, float64."""
        return {
            f"{i}.{part}": torch.from_numpy(getattr(t, part).copy())
            for i, t in self.transforms.items()
            for part in ("values", "scores", "spikes")
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TableCodec:
        """The codec of a saved configuration and its tensors."""
        transforms = {}
        for i, has_missing in config["has_missing"].items():
            values, scores, spikes = (tensors[f"{i}.{part}"].numpy() for part in ("values", "scores", "spikes"))
            transforms[int(i)] = NumberTransform(values, scores, spikes, has_missing)
        return cls(Schema.from_json(config["schema"]), transforms)
