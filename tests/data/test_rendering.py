from data.small_sets import broken_rows

from openglip.data.rendering import render


def test_broken_rows_are_reported_between_drawn_ones(tmp_path):
    drawn = list(render(broken_rows(tmp_path), tmp_path / "drawn"))
    assert [(d.id, d.file is None) for d in drawn] == [("k0", False), (1, True), ("k2", True), ("k3", False)]
    assert "line 1: not json" in (drawn[1].error or "")
    assert "base64" in (drawn[2].error or "")
