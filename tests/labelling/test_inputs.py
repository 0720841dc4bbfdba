from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from labelling.stub import fast
from PIL import Image

from openglip.data.files import image_content
from openglip.data.format import Pair
from openglip.errors import DataError
from openglip.labelling.inputs import plan
from openglip.labelling.manifest import Manifest
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

CAPTIONS = {"a.jpg": "a cat", "b.jpg": "two dogs", "c.jpg": ""}


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 90, 10)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(CAPTIONS):
        (folder / name).write_bytes(jpeg(i * 60))
    return folder


def pairs(source: object, **options: object) -> list[Pair]:
    return [pair for shard in plan(source, **options) for pair in shard.pairs()]  # type: ignore[arg-type]


def check(found: list[Pair]) -> None:
    """The three images with their captions, in order, and readable."""
    assert [(p.filename, p.caption) for p in found] == list(CAPTIONS.items())
    assert all(p.error is None and p.image is not None for p in found)
    assert [image_content(p.image) for p in found] == [jpeg(i * 60) for i in range(3)]  # type: ignore[arg-type]


def test_captions_next_to_the_images(photos: Path) -> None:
    for name, caption in CAPTIONS.items():
        (photos / name).with_suffix(".txt").write_text(caption + "\n")
    check(pairs(photos))
    assert [s.name for s in plan(photos, shard_size=2)] == ["000000", "000001"]
    (photos / "a.txt").unlink()
    (photos / "a.json").write_text(json.dumps({"caption": "a cat"}))
    check(pairs(photos))
    (photos / "a.json").write_text("{")
    assert (pairs(photos)[0].error or "").startswith("unreadable caption: ")
    (photos / "a.json").unlink()
    assert pairs(photos)[0].caption is None


def test_captions_in_one_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("filename,caption\n" + "".join(f"{n},{c}\n" for n, c in CAPTIONS.items()))
    check(pairs(tmp_path / "list.csv"))
    (tmp_path / "map.json").write_text(json.dumps(CAPTIONS))
    check(pairs(tmp_path / "map.json", images=photos))
    (tmp_path / "rows.json").write_text(json.dumps([{"image": n, "text": c} for n, c in CAPTIONS.items()]))
    check(pairs(tmp_path / "rows.json"))
    coco = {
        "images": [{"id": i, "file_name": n} for i, n in enumerate(CAPTIONS)],
        "annotations": [{"id": 9 - i, "image_id": i, "caption": c} for i, c in enumerate(CAPTIONS.values())],
    }
    (tmp_path / "captions_val.json").write_text(json.dumps(coco))
    check(pairs(tmp_path / "captions_val.json"))
    assert [p.id for p in pairs(tmp_path / "captions_val.json")] == [9, 8, 7]
    coco["annotations"][0]["image_id"] = 77
    (tmp_path / "captions_val.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"captions_val\.json, id 9: there is no image 77"):
        plan(tmp_path / "captions_val.json")
    (tmp_path / "bad.csv").write_text("name,words\na.jpg,x\n")
    with pytest.raises(DataError, match="line 2 names no image"):
        plan(tmp_path / "bad.csv")


def test_webdataset(tmp_path: Path) -> None:
    for name in ("00001", "00000"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for i, (file, caption) in enumerate(CAPTIONS.items()):
                for member, content in (
                    (file, jpeg(i * 60)),
                    (f"{file[0]}.txt", caption.encode()),
                    (f"{file[0]}.json", b"{}"),
                ):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        (tmp_path / f"{name}.parquet").write_bytes(b"img2dataset's table of urls and states")
        (tmp_path / f"{name}_stats.json").write_text("{}")
    check(pairs(tmp_path / "00000.tar"))
    assert [s.name for s in plan(tmp_path)] == ["00000", "00001"]
    assert [s.name for s in plan(str(tmp_path / "*.tar"))] == ["00000", "00001"]
    (tmp_path / "list.txt").write_text("00001.tar\n")
    assert [s.name for s in plan(tmp_path / "list.txt")] == ["00001"]
    with pytest.raises(DataError, match="two shards are called '00000'"):
        plan([tmp_path / "00000.tar", tmp_path / "00000.tar"])


def test_parquet(photos: Path, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for key, image in (
        ("jpg", [jpeg(i * 60) for i in range(3)]),
        ("image", [{"bytes": jpeg(i * 60), "path": n} for i, n in enumerate(CAPTIONS)]),
        ("image_path", [f"images/{n}" for n in CAPTIONS]),
    ):
        columns = {key: image, "caption": list(CAPTIONS.values())}
        if key == "jpg":
            columns["filename"] = list(CAPTIONS)
        parquet.write_table(arrow.table(columns), tmp_path / "part.parquet")
        found = pairs(tmp_path / "part.parquet")
        assert [p.filename.removeprefix("images/") for p in found] == list(CAPTIONS)
        assert [p.caption for p in found] == list(CAPTIONS.values())
        assert [image_content(p.image) for p in found] == [jpeg(i * 60) for i in range(3)]  # type: ignore[arg-type]
    (tmp_path / "part.parquet").write_bytes((tmp_path / "part.parquet").read_bytes()[:-20])
    assert (pairs(tmp_path / "part.parquet")[0].error or "").startswith("damaged archive: after row 0")


def test_flickr30k_entities_without_its_mark_up(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "Sentences").mkdir()
    text = "[/EN#1/people A man] with [/EN#0/notvisual a hat] .\n[/EN#1/people Someone] walks ."
    (tmp_path / "Sentences" / "b.txt").write_text(text)
    found = pairs(tmp_path)
    assert [(p.id, p.filename, p.caption) for p in found] == [
        ("b/0", "b.jpg", "A man with a hat ."),
        ("b/1", "b.jpg", "Someone walks ."),
    ]
    manifest: Manifest = label(
        tmp_path, tmp_path / "out", model=fast, workers=0, labels=LabelSettings(chunker="rules"), drop_duplicates=True
    )
    assert manifest.totals()["lines"] == 2  # captions of one photo are no duplicates


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        plan(tmp_path / "nothing")
    with pytest.raises(DataError, match="no images, tars or parquet files"):
        plan(tmp_path)
