import json
from pathlib import Path

import pytest
from data.small_sets import write_tsv

from openglip.data.tsv import TsvFile
from openglip.errors import DataError

GOLDENS = Path(__file__).parents[1] / "goldens" / "train"


def test_tsv_lines_are_the_official_ones(tmp_path):
    golden = json.loads((GOLDENS / "data_routines.json").read_text(encoding="utf-8"))["tsv"]
    file = TsvFile(write_tsv(tmp_path / "a.tsv", golden["rows"]))
    assert file.offsets[:-1].tolist() == golden["lineidx"]
    assert [file.row(i) for i in range(3)] == golden["rows_read"]
    assert [file.key(i) for i in range(3)] == golden["keys"]
    (tmp_path / "a.lineidx").unlink()
    with pytest.raises(DataError, match=r"a\.lineidx"):
        TsvFile(tmp_path / "a.tsv")
    assert TsvFile(tmp_path / "a.tsv", make_index=True).offsets[:-1].tolist() == golden["lineidx"]
