import dataclasses

import numpy as np
import pytest
from data.small_sets import WRITABLE, broken_rows, encoded, read_only, write, write_coco_json, written_path
from PIL import Image

from openglip.data.checking import check
from openglip.data.conversion import convert
from openglip.data.files import image_content
from openglip.data.findings import Findings
from openglip.data.formats.odvg import write_odvg
from openglip.data.reading import open_splits
from openglip.errors import ConfigError
from openglip.files import FileSlice
from openglip.structures.sample import Sample

NAMES = ("cat", "traffic light", "übergroße Katze")


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a.jpg", (100, 80)), ("b.jpg", (33, 77)), ("c.png", (20, 20))):
        Image.new("RGB", size, "teal").save(tmp_path / name)
    return tmp_path


@pytest.fixture
def detection(folder):
    packed = FileSlice(str(folder / "c.png"), 0, (folder / "c.png").stat().st_size, name="deep/c.png")
    boxes = [[1.25, 2, 30.123, 40], [0, 0, 100, 80]]
    return [
        Sample(str(folder / "a.jpg"), (80, 100), boxes, categories=NAMES, labels=[2, 0], exhaustive=True, image_id=7),
        Sample(str(folder / "b.jpg"), (77, 33), [], categories=NAMES, labels=[], exhaustive=True, image_id=9),
        Sample(packed, (20, 20), [[3, 4, 5.5, 6]], categories=NAMES, labels=[1], exhaustive=True, image_id=11),
    ]


@pytest.fixture
def grounding(folder):
    spans = (((2, 5),), ((2, 5), (12, 15)))
    boxes = [[1.25, 2, 30.123, 40], [0, 0, 100, 80]]
    return [Sample(str(folder / "a.jpg"), (80, 100), boxes, "a cat and a dög", spans, scores=[0.5, 0.25], image_id="x")]


def written(name, samples, folder):
    """What a writer wrote, read back; and what it said it lost."""
    out = written_path(folder / "out", name)
    lost = WRITABLE[name].write(samples, out)
    splits = open_splits(out)
    findings = Findings()
    (split,) = splits.values()
    found = list(split.read(findings))
    assert not findings.items
    return found, lost


@pytest.mark.parametrize("name", WRITABLE)
def test_detection_comes_back(name, detection, folder):
    found, lost = written(name, detection, folder)
    by_stem = {s.file_name.split(".")[0]: s for s in found}
    assert len(found) == len(by_stem) == 3
    for before in detection:
        after = by_stem[before.file_name.split(".")[0]]
        assert after.names == before.names
        assert after.size == before.size
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-3)
        assert image_content(after.image) == (folder / before.file_name).read_bytes()
    assert not lost


@pytest.mark.parametrize("name", ["odvg", "webdataset"])
def test_grounding_comes_back_where_it_can(name, grounding, folder):
    (after,), lost = written(name, grounding, folder)
    assert (after.caption, after.phrase_spans) == (grounding[0].caption, grounding[0].phrase_spans)
    np.testing.assert_allclose(after.boxes, grounding[0].boxes, atol=1e-3)
    np.testing.assert_allclose(after.scores, grounding[0].scores)
    assert not lost


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "label-studio"])
def test_what_a_format_cannot_hold_is_reported(name, grounding, folder):
    (after,), lost = written(name, grounding, folder)
    assert after.names == ("cat", "cat dög")
    assert lost["caption"] == lost["phrase_spans"] == 1
    assert lost["scores"] == (0 if name == "label-studio" else 1)
    assert lost["image_id"] == (1 if name in ("coco", "label-studio") else 0)


def test_known_absent_names_are_lost_and_said(detection, folder):
    federated = [dataclasses.replace(s, exhaustive=False, negatives=("bus",)) for s in detection]
    lost = write_odvg(federated, folder / "out.jsonl")
    assert lost == {"negatives": 3, "not exhaustive": 3}


def test_nothing_is_half_written(detection, folder):
    class Stopped(Exception):
        pass

    def broken():
        yield detection[0]
        raise Stopped

    for name, format in WRITABLE.items():
        with pytest.raises(Stopped):
            format.write(broken(), folder / name / "o")
        assert not list((folder / name).rglob("*.tmp"))
        assert name in ("yolo", "voc") or not list((folder / name).glob("o*"))


def test_splits_go_to_their_places(detection, folder):
    for split in ("train", "val"):
        WRITABLE["coco"].write(detection, folder / "coco" / f"{split}.json")
    done = convert(folder / "coco", folder / "yolo", format="yolo")
    assert (done.samples, done.lost, done.findings) == (6, {}, [])
    splits = open_splits(folder / "yolo")
    assert {name: len(list(split.read(Findings()))) for name, split in splits.items()} == {"train": 3, "val": 3}
    done = convert(folder / "yolo", folder / "back", format="coco", source_format="yolo")
    assert sorted(done.written.values()) == [str(folder / "back" / f"{s}.json") for s in ("train", "val")]
    with pytest.raises(ConfigError, match="2 splits"):
        convert(folder / "coco", folder / "one.json")
    with pytest.raises(ConfigError, match="exists already"):
        convert(folder / "coco", folder / "yolo", format="yolo")
    with pytest.raises(ConfigError, match="give the format"):
        convert(folder / "coco", folder / "something")


def test_a_missing_image_is_a_finding_where_images_are_copied(detection, folder):
    WRITABLE["coco"].write(detection, folder / "coco.json")
    (folder / "a.jpg").unlink()
    done = convert(folder / "coco.json", folder / "voc", format="voc")
    assert done.samples == 2
    assert [f.kind for f in done.findings] == ["missing_image"]
    assert convert(folder / "coco.json", folder / "o.jsonl").samples == 3


@pytest.mark.parametrize("name", WRITABLE)
def test_broken_rows_do_not_stop_a_conversion(name, tmp_path):
    out = written_path(tmp_path / "out", name)
    done = convert(broken_rows(tmp_path), out, format=name)
    assert done.samples == 2
    assert [(f.kind, f.id) for f in done.findings] == [("malformed", 1), ("unreadable_image", "k2")]
    assert done.left_out == {"malformed": 1, "unreadable_image": 1}
    report = check(out)
    assert (report.findings, report.counts["images"], report.counts["boxes"]) == ([], 2, 2)


def test_ids_that_are_no_numbers_get_free_ones(tmp_path):
    for seed, file in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        write(tmp_path / file, encoded(seed))
    source = write_coco_json(tmp_path / "train.json", (2, "a.jpg"), ("x", "b.jpg"), (3, "c.jpg"))
    made = convert(source, tmp_path / "out" / "o.json")
    samples, _ = read_only(tmp_path / "out" / "o.json")
    assert made.samples == len({s.image_id for s in samples}) == 3
    assert samples[0].image_id == 2
