from __future__ import annotations

from pathlib import Path

import pytest
from labelling.runs import run_stub

from openglip.errors import DataError
from openglip.labelling.manifest import verify


@pytest.mark.parametrize("file", ["manifest.json", "shards/000000.jsonl", "failures/000000.jsonl"])
def test_verify_sees_any_changed_byte(images: Path, tmp_path: Path, file: str) -> None:
    run_stub(images, tmp_path / "out")
    path = tmp_path / "out" / file
    content = path.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert problems(tmp_path / "out")
    path.write_bytes(content)
    assert not problems(tmp_path / "out")
    path.unlink()
    assert problems(tmp_path / "out")


def problems(folder: Path) -> list[str]:
    try:
        return verify(folder)
    except DataError as error:
        return [str(error)]
