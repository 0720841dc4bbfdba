"""Draw the loss and the figures of training runs, from their logs, as an SVG file.

python benchmarks/curve.py docs/images/debug.svg runs/debug [MORE RUNS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP = 640, 300, 46, 34
COLOURS = {"loss": "#777777", "AP50": "#c0392b", "AP50_seen": "#2471a3"}
WORDS = {"loss": "loss, mean of ten steps", "AP50": "AP50, pairs never seen", "AP50_seen": "AP50, other pairs"}


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of the loss (means of ten steps) and of each figure of a run."""
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = {"loss": [(rows[-1]["step"], sum(r["loss"] for r in rows) / len(rows)) for rows in by_ten(steps)]}
    for line in map(json.loads, (run / "evaluations.jsonl").read_text().splitlines()):
        for name in ("AP50", "AP50_seen"):
            found.setdefault(name, []).append((line["step"], line[name]))
    return found


def by_ten(rows: list[dict]) -> list[list[dict]]:
    return [rows[i : i + 10] for i in range(0, len(rows), 10)]


def main() -> None:
    output, runs = Path(sys.argv[1]), [points(Path(path)) for path in sys.argv[2:]]
    last = max(step for run in runs for step, _ in run["loss"])
    highest = max(value for run in runs for _, value in run["loss"])
    right, bottom = WIDTH - LEFT, HEIGHT - 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]

    def text(x: float, y: float, words: str, colour: str = "#333", anchor: str = "middle") -> None:
        parts.append(f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}">{words}</text>')

    def x_of(step: float) -> float:
        return LEFT + (right - LEFT) * step / last

    def y_of(share: float) -> float:
        return bottom - (bottom - TOP) * share

    for tenths in range(0, 11, 2):
        y = y_of(tenths / 10)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        text(LEFT - 6, y + 4, f"{tenths / 10:.1f}", COLOURS["AP50"], "end")
        text(right + 6, y + 4, f"{highest * tenths / 10:.1f}", COLOURS["loss"], "start")
    for quarter in range(5):
        text(x_of(last * quarter / 4), bottom + 18, f"{last * quarter // 4}")
    text(WIDTH / 2, HEIGHT - 8, "steps")
    for run in runs:
        for name, line in run.items():
            top = highest if name == "loss" else 1.0
            places = [(x_of(step), y_of(value / top)) for step, value in line]
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{joined}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.6"/>')
            if name != "loss":
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[name]}"/>' for x, y in places]
    for place, name in enumerate(WORDS):
        text(LEFT + 8 + 190 * place, 18, WORDS[name], COLOURS[name], "start")
    output.write_text("\n".join([*parts, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
