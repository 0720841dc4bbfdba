"""Shared options, and the line of progress."""

from __future__ import annotations

import pytest

from openglip.cli.options import end_progress, show_progress
from openglip.runtime import Progress


def test_a_line_per_call_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_progress(Progress(1, 4, "shards"))
    show_progress(Progress(2, 4, "shards", "labelling", {"pairs": 20, "seconds": 10.0, "seconds_left": 4000.0}))
    end_progress()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1 of 4 shards",
        "labelling: 2 of 4 shards, 20 pairs, 2.0 per second, 1 h 7 min left",
    ]
