"""The record of one evaluation: figures, the protocol they belong to, and the published rows they stand beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

from openglip.data.files import read_json
from openglip.errors import DataError
from openglip.evaluation.coco import Figures
from openglip.files import whole_file

HEADLINE: dict[str, tuple[str, ...]] = {
    "coco": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"),
    "coco-ov": ("AP50_novel", "AP50_base", "AP50_all"),
    "lvis": ("AP_fixed", "APr_fixed", "APc_fixed", "APf_fixed", "AP", "APr", "APc", "APf"),
    "flickr30k": tuple(f"{box}/R@{k}" for box in ("any_box", "merged_box") for k in (1, 5, 10, "all")),
    "odinw": ("mean", "median"),
    "refcoco": ("P@1",),
    "custom": ("AP", "AP50", "AP75", "F1", "false_alarm_rate", "calibration_error"),
}
# What may differ between two reports whose figures still stand in one column.
_FREE = ("command", "versions", "predictions", "predictions_sha256", "title", "model", "weights", "training_data")
Row = Mapping[str, object]


@dataclass(frozen=True)
class Report:
    """figures: fractions, -1 where undefined. published: rows of papers, in points (0 to 100), with their sources."""

    benchmark: str
    figures: Figures
    protocol: dict[str, object]
    per_category: dict[str, Figures]
    published: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The content of report.json."""
        return {**asdict(self), "published": list(self.published)}

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write `report.json` into a folder, whole or not at all."""
        path = Path(folder) / "report.json"
        with whole_file(path) as file:
            json.dump(self.to_json(), file, indent=1, ensure_ascii=False)
        return path

    def table(self) -> str:
        """For people: our row and the published ones in points, then what was done."""
        lines = [compare([self]), ""]
        for key, value in self.protocol.items():
            if isinstance(value, (dict, list, tuple)) and len(value) > 8:
                value = f"{len(value)} entries, see report.json"
            lines.append(f"{key}: {value}")
        return "\n".join(lines)


def read_report(path: str | PathLike[str]) -> Report:
    """A saved report, by its file or its folder. Raises DataError when it is none."""
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    data = read_json(path)
    names = ("benchmark", "figures", "protocol", "per_category")
    if not isinstance(data, Mapping) or not all(name in data for name in names):
        raise DataError(f"{path}: not an evaluation report: it needs {', '.join(names)}")
    if data["benchmark"] not in HEADLINE:
        raise DataError(f"{path}: unknown benchmark {data['benchmark']!r}")
    return Report(*(data[name] for name in names), published=tuple(data.get("published", ())))


@cache
def published(benchmark: str) -> tuple[Row, ...]:
    """Rows of papers and repositories for a benchmark, each with its source."""
    file = files("openglip.evaluation") / "published" / f"{benchmark}.json"
    return tuple(json.loads(file.read_text("utf-8"))) if file.is_file() else ()


def compare(reports: Sequence[Report]) -> str:
    """Tables of several reports, one per benchmark, with the published rows and what differs in their protocols."""
    parts = []
    for benchmark in dict.fromkeys(r.benchmark for r in reports):
        own = [r for r in reports if r.benchmark == benchmark]
        columns = HEADLINE[benchmark]
        rows = [
            [_title(r), _setting(r), *(_points(r.figures.get(c, -1.0)) for c in columns), "measured here"] for r in own
        ]
        for row in {json.dumps(p): p for r in own for p in r.published}.values():
            values = row.get("points", {})
            assert isinstance(values, Mapping)
            if not any(c in values for c in columns):
                continue
            name = f"{row['model']}{' ' + str(row['backbone']) if 'backbone' in row else ''}"
            cells = [f"{values[c]:.1f}" if c in values else "" for c in columns]
            rows.append([name, f"{row['setting']}, {row['split']}", *cells, str(row["source"])])
        parts.append(f"{benchmark} (points)\n" + _table(["", "setting", *columns, "source"], rows) + _differences(own))
    return "\n\n".join(parts)


def _title(report: Report) -> str:
    protocol = report.protocol
    return str(protocol.get("title") or protocol.get("model") or protocol.get("predictions") or "this run")


def _setting(report: Report) -> str:
    zero_shot = report.protocol.get("zero_shot")
    words = {True: "zero-shot", False: "trained on the benchmark's data"}
    return words[bool(zero_shot)] if isinstance(zero_shot, bool) else "training data not known"


def _points(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def _differences(reports: Sequence[Report]) -> str:
    """Parts of the protocols in which reports differ: their figures do not compare there."""
    keys = dict.fromkeys(k for r in reports for k in r.protocol if k not in _FREE and not k.startswith("seconds"))
    lines = []
    for key in keys:
        values = {json.dumps(r.protocol.get(key), sort_keys=True) for r in reports}
        if len(values) > 1:
            shown = sorted(v if len(v) < 60 else v[:57] + "..." for v in values)
            lines.append(f"\nthe protocols differ in {key}: {' / '.join(shown)}")
    return "".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    align = [str.ljust, str.ljust, *([str.rjust] * (len(head) - 3)), str.ljust]
    lines = ["  ".join(a(c, w) for a, c, w in zip(align, row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
