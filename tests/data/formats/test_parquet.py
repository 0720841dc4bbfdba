import pytest
from data.small_sets import encoded, format_of, read_only, write

from openglip.data.checking import check
from openglip.data.conversion import convert
from openglip.data.files import image_content
from openglip.data.formats.parquet import read_parquet
from openglip.data.reading import open_splits
from openglip.errors import DataError, MissingExtraError


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": encoded(), "path": None}, "caption": "a dog", "boxes": [[1.0, 2, 30, 40], [5, 5, 5, 9]],
         "tokens_positive": [[[0, 5]], [[2, 5]]], "scores": [0.5, 0.75]},
        {"image": {"bytes": None, "path": "a.jpg"}, "caption": "an owl", "boxes": [],
         "tokens_positive": [], "scores": []},
    ]  # fmt: skip
    write(tmp_path / "a.jpg", encoded())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    one, two = read_parquet(tmp_path / "train.parquet")
    assert (one.names, one.size, one.scores.tolist()) == (("a dog",), (80, 100), [0.5])
    assert (two.image, two.caption) == (str(tmp_path / "a.jpg"), "an owl")
    assert format_of(tmp_path) == "parquet"
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet"):
        list(read_parquet(tmp_path))


def test_parquet_says_which_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"openglip\[train\]"):
        list(read_parquet(tmp_path / "a.parquet"))


@pytest.fixture
def parquet(tmp_path):
    """Writes rows as a file of two columns or more."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (extra train)")
    pq = pytest.importorskip("pyarrow.parquet")

    def write_rows(name, rows):
        (tmp_path / "pq").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pq" / name)
        return tmp_path / "pq"

    return write_rows


def test_a_bad_parquet_row_does_not_end_the_others(parquet):
    good = {"image": encoded(1), "caption": "a cat", "boxes": [[1.0, 2.0, 30.0, 40.0]], "tokens_positive": [[[2, 5]]]}
    bad = [
        {**good, "image": b"no picture"},
        {**good, "image": None},
        {**good, "caption": None},
        {**good, "boxes": [[1.0, 2.0, 3.0]]},
        {**good, "boxes": [[1.0] * 8]},
        {**good, "scores": []},
        {**good, "scores": [0.5, 0.5]},
    ]
    folder = parquet("a.parquet", [{"scores": [0.5], **row} for row in (good, *bad, good)])
    samples, findings = read_only(folder)
    assert [s.image_id for s in samples][:1] == [0]
    assert len(samples) == 2 + 1  # no scores are none at all
    assert {f.id for f in findings.items} == {1, 2, 3, 4, 5, 7}
    assert {f.kind for f in findings.items} == {"malformed"}


def test_every_row_of_every_parquet_file_is_opened(parquet, tmp_path):
    for number in range(2):
        folder = parquet(f"part-{number}.parquet", [{"image": encoded(number), "caption": "a cat"}])
    write(tmp_path / "x", b"")
    report = check(folder)
    assert report.counts["images"] == 2
    assert report.findings == []
    made = convert(folder, tmp_path / "out" / "o.json")
    samples, _ = read_only(tmp_path / "out" / "o.json")
    assert made.samples == 2
    assert {image_content(s.image) for s in samples} == {encoded(0), encoded(1)}


def test_parquet_files_named_after_splits_are_splits(parquet):
    for split in ("train", "test"):
        folder = parquet(f"{split}-00000-of-00001.parquet", [{"image": encoded(1), "caption": "a cat"}])
    assert set(open_splits(folder)) == {"train", "test"}
    assert "leak_image" in {finding.kind for finding in check(folder).findings}


@pytest.mark.parametrize("files", [1, 2])
def test_numbers_of_parquet_rows_are_no_ids(parquet, tmp_path, files):
    for seed, split in enumerate(("train", "test")):
        for number in range(files):
            parquet(f"{number:04}.parquet", [{"image": encoded(10 * seed + number), "caption": "a cat"}])
        (tmp_path / "pq").rename(tmp_path / split)
    assert check(tmp_path / "train", against={"test": tmp_path / "test"}).findings == []
    report = check(tmp_path)
    assert report.findings == []
    assert report.counts["images"] == 2 * files
