"""The record of one evaluation: figures, the protocol that they belong to, and the published rows to compare with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from openglip.data.files import read_json
from openglip.errors import DataError
from openglip.evaluation.coco import Figures
from openglip.files import StrPath, whole_file

HEADLINE: dict[str, tuple[str, ...]] = {
    "coco": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"),
    "coco-ov": ("AP50_novel", "AP50_base", "AP50_all"),
    "lvis": ("AP_fixed", "APr_fixed", "APc_fixed", "APf_fixed", "AP", "APr", "APc", "APf"),
    "flickr30k": tuple(f"{box}/R@{k}" for box in ("any_box", "merged_box") for k in (1, 5, 10, "all")),
    "odinw": ("mean", "median"),
    "refcoco": ("P@1",),
    "custom": ("AP", "AP50", "AP75", "F1", "false_alarm_rate", "calibration_error"),
}
# Entries of the protocol that may differ between reports whose figures can still be compared.
_FREE = ("command", "versions", "predictions", "predictions_sha256", "title", "model", "weights", "training_data")
Row = Mapping[str, object]


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of one evaluation and how they came about.

    Attributes:
        benchmark: Name of the benchmark.
        figures: Fractions by name, -1 where undefined.
        protocol: Everything that the figures depend on.
        per_category: Figures of each category by its name.
        published: Rows of papers, in points (0 to 100), with their sources.
    """

    benchmark: str
    figures: Figures
    protocol: dict[str, object]
    per_category: dict[str, Figures]
    published: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The content of report.json."""
        return {**asdict(self), "published": list(self.published)}

    def save(self, folder: StrPath) -> Path:
        """Write `report.json` into a folder; returns its path."""
        path = Path(folder) / "report.json"
        with whole_file(path) as file:
            json.dump(self.to_json(), file, indent=1, ensure_ascii=False)
        return path

    def table(self) -> str:
        """Text for people: this row and the published ones in points, then the protocol."""
        lines = [compare_reports([self]), ""]
        for key, value in self.protocol.items():
            if isinstance(value, (dict, list, tuple)) and len(value) > 8:
                value = f"{len(value)} entries, see report.json"
            lines.append(f"{key}: {value}")
        return "\n".join(lines)


def read_report(path: StrPath) -> EvaluationReport:
    """Read a saved report, by its file or its folder.

    Raises:
        DataError: The file is no evaluation report.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    data = read_json(path)
    names = ("benchmark", "figures", "protocol", "per_category")
    if not isinstance(data, Mapping) or not all(name in data for name in names):
        raise DataError(f"{path}: not an evaluation report: it needs {', '.join(names)}")
    if data["benchmark"] not in HEADLINE:
        raise DataError(f"{path}: unknown benchmark {data['benchmark']!r}")
    return EvaluationReport(*(data[name] for name in names), published=tuple(data.get("published", ())))


@cache
def published_rows(benchmark: str) -> tuple[Row, ...]:
    """Rows of papers and repositories for a benchmark, each with its source."""
    file = files("openglip.evaluation") / "published" / f"{benchmark}.json"
    return tuple(json.loads(file.read_text("utf-8"))) if file.is_file() else ()


def compare_reports(reports: Sequence[EvaluationReport]) -> str:
    """Tables of several reports, one per benchmark, with the published rows and how their protocols differ."""
    tables = []
    for benchmark in dict.fromkeys(report.benchmark for report in reports):
        group = [report for report in reports if report.benchmark == benchmark]
        columns = HEADLINE[benchmark]
        rows = [
            [_title(r), _setting(r), *(_points(r.figures.get(c, -1.0)) for c in columns), "measured here"]
            for r in group
        ]
        for row in {json.dumps(row): row for report in group for row in report.published}.values():
            values = row.get("points", {})
            assert isinstance(values, Mapping)
            if not any(c in values for c in columns):
                continue
            name = f"{row['model']}{' ' + str(row['backbone']) if 'backbone' in row else ''}"
            cells = [f"{values[c]:.1f}" if c in values else "" for c in columns]
            rows.append([name, f"{row['setting']}, {row['split']}", *cells, str(row["source"])])
        table = _table(["", "setting", *columns, "source"], rows)
        tables.append(f"{benchmark} (points)\n" + table + _differences(group))
    return "\n\n".join(tables)


def _title(report: EvaluationReport) -> str:
    protocol = report.protocol
    return str(protocol.get("title") or protocol.get("model") or protocol.get("predictions") or "this run")


def _setting(report: EvaluationReport) -> str:
    zero_shot = report.protocol.get("zero_shot")
    if not isinstance(zero_shot, bool):
        return "training data not known"
    return "zero-shot" if zero_shot else "trained on the benchmark's data"


def _points(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def _differences(reports: Sequence[EvaluationReport]) -> str:
    """The entries in which the protocols differ, so that the figures can't be compared."""
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
