"""Readers against small files in the real layout of each format. COCO and Flickr30k have files of their own."""

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.formats import FORMATS
from openglip.data.formats.caption_tsv import flat, read_caption_tsv
from openglip.data.formats.label_studio import read_label_studio
from openglip.data.formats.lvis import read_lvis
from openglip.data.formats.mdetr import read_mdetr
from openglip.data.formats.objects365 import read_objects365, read_objects365_tsv
from openglip.data.formats.odvg import read_odvg
from openglip.data.formats.openimages import read_openimages
from openglip.data.formats.parquet import read_parquet
from openglip.data.formats.visual_genome import read_visual_genome
from openglip.data.formats.voc import read_voc
from openglip.data.formats.webdataset import read_webdataset
from openglip.data.formats.yolo import read_yolo
from openglip.data.reading import open_splits
from openglip.data.tsv import TsvFile
from openglip.errors import DataError, MissingExtraError

GOLDENS = Path(__file__).parents[1] / "goldens" / "train"


def photo(path, width=100, height=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def encoded(width=100, height=80):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def sniffed(path):
    """Samples of a path by format and split, as `open_splits` finds them."""
    splits = open_splits(path)
    return next(iter(splits.values())).format.name, {split: list(read(Findings())) for split, read in splits.items()}


def test_lvis(tmp_path):
    photo(tmp_path / "train2017" / "000000391895.jpg")
    file = write(
        tmp_path / "lvis.json",
        {
            "images": [
                {
                    "id": 391895, "width": 100, "height": 80,
                    "neg_category_ids": [3, 2], "not_exhaustive_category_ids": [],
                    "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
                }
            ],
            "categories": [
                {"id": 1, "name": "bow_(weapon)", "frequency": "r", "synset": "bow.n.04", "synonyms": ["bow_(weapon)"]},
                {"id": 2, "name": "cat", "frequency": "f"},
                {"id": 3, "name": "dog", "frequency": "f"},
            ],
            "annotations": [{"id": 1, "image_id": 391895, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200}],
        },
    )  # fmt: skip
    (sample,) = read_lvis(file)
    assert sample.image.endswith("train2017/000000391895.jpg")
    assert (sample.names, sample.negatives, sample.exhaustive) == (("bow_(weapon)",), ("dog", "cat"), False)
    assert sniffed(file)[0] == "lvis"


def test_objects365_json(tmp_path):
    photo(tmp_path / "patch0" / "objects365_v1_00000000.jpg")
    name = "images/v1/patch0/objects365_v1_00000000.jpg"
    file = write(
        tmp_path / "zhiyuan_objv2_train.json",
        {
            "images": [{"id": 0, "file_name": name, "width": 100, "height": 80, "license": 5, "url": ""}],
            "categories": [{"id": 1, "name": "Person"}, {"id": 13, "name": "Street Lights"}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 0,
                    "category_id": 13,
                    "bbox": [1.5, 2, 3, 4],
                    "iscrowd": 0,
                    "isfake": 0,
                    "area": 12,
                }
            ],
        },
    )
    (sample,) = read_objects365(file, tmp_path)
    assert sample.image.endswith("patch0/objects365_v1_00000000.jpg")
    assert sample.names == ("Street Lights",)


def tsv(path, rows):
    """A TSV and its lineidx."""
    lines = ["\t".join(row) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())
    offsets = np.cumsum([0, *(len(line.encode()) for line in lines[:-1])])
    path.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
    return path


def test_tsv_lines_are_the_official_ones(tmp_path):
    golden = json.loads((GOLDENS / "data_routines.json").read_text(encoding="utf-8"))["tsv"]
    file = TsvFile(tsv(tmp_path / "a.tsv", golden["rows"]))
    assert file.offsets[:-1].tolist() == golden["lineidx"]
    assert [file.row(i) for i in range(3)] == golden["rows_read"]
    assert [file.key(i) for i in range(3)] == golden["keys"]
    (tmp_path / "a.lineidx").unlink()
    with pytest.raises(DataError, match=r"a\.lineidx"):
        TsvFile(tmp_path / "a.tsv")
    assert TsvFile(tmp_path / "a.tsv", make_index=True).offsets[:-1].tolist() == golden["lineidx"]


@pytest.fixture
def objects365(tmp_path):
    image = base64.b64encode(encoded()).decode()
    tsv(tmp_path / "train.tsv", [["a", image], ["b", image]])
    objects = [{"class": "Wild Bird", "rect": [1, 2, 30, 40], "conf": 1.0}, {"class": "nothing", "rect": [1, 2, 3, 4]}]
    tsv(tmp_path / "label.tsv", [["a", json.dumps({"objects": objects})], ["b", "[]"]])
    tsv(tmp_path / "hw.tsv", [["a", '[{"height": 80, "width": 100}]'], ["b", "80 100"]])
    write(tmp_path / "linelist.tsv", "1\n0\n0\n")
    write(tmp_path / "map.json", {"label_to_idx": {"Wild Bird": 2, "Person": 1}})
    names = {
        "img": "train.tsv",
        "label": "label.tsv",
        "hw": "hw.tsv",
        "linelist": "linelist.tsv",
        "labelmap": "map.json",
    }
    return write(tmp_path / "train.yaml", "".join(f"{key}: {name}\n" for key, name in names.items()))


def test_objects365_tsv(objects365):
    findings = Findings()
    samples = read_objects365_tsv(objects365, findings=findings)
    assert len(samples) == 3
    assert samples.sizes.tolist() == [[80, 100]] * 3
    assert [s.image_id for s in samples] == ["b", "a", "a"]
    assert samples[1].names == ("Wild Bird",)
    assert samples[1].categories == ("Person", "Wild Bird")
    assert samples[1].image.read() == encoded()
    assert [len(s) for s in samples[:2]] == [0, 1]
    assert findings.counts["unmapped_class"] > 0
    assert sniffed(objects365)[0] == "objects365-tsv"


def test_tsv_sets_that_do_not_fit_together_are_refused(objects365):
    tsv(objects365.parent / "label.tsv", [["a", "[]"]])
    (objects365.parent / "linelist.tsv").write_text("0\n")
    with pytest.raises(DataError, match="2 image rows, but 1 label"):
        read_objects365_tsv(objects365)
    (objects365.parent / "linelist.tsv").write_text("7\n")
    with pytest.raises(DataError, match=r"linelist\.tsv"):
        read_objects365_tsv(objects365)


def caption_set(tmp_path, label):
    tsv(tmp_path / "img.tsv", [["k", "x"], ["9", "http://x", base64.b64encode(encoded()).decode()]])
    tsv(tmp_path / "label.tsv", [["row", json.dumps(label)]])
    write(tmp_path / "ids.json", {"9": 1})
    return write(tmp_path / "cc.yaml", "img: img.tsv\nlabel: label.tsv\nimageid2idx: ids.json\n")


def test_caption_tsv_v1_and_v2_are_the_same(tmp_path):
    golden = json.loads((GOLDENS / "data_routines.json").read_text(encoding="utf-8"))["caption_v2_to_v1"]
    flattened = flat(golden["input"], "here")
    assert {key: flattened[key] for key in golden["output"]} == golden["output"]
    head = {"img_h": 80, "img_w": 100, "caption": "two dogs and a ball", "img_id": "9"}
    version_1 = {
        "bboxes": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 20, 30]], "scores": [0.9, 0.4, 0.7],
        "tokens_positive": [[[0, 8]], [[0, 8]], [[4, 8], [13, 19]]],
    }  # fmt: skip
    version_2 = {
        "bboxes": [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9, 10, 20, 30]]], "scores": [[0.9, 0.4], [0.7]],
        "tokens_positive": [[[0, 8]], [[4, 8], [13, 19]]],
    }  # fmt: skip
    found = []
    for i, label in enumerate((version_1, version_2)):
        (tmp_path / str(i)).mkdir()
        path = caption_set(tmp_path / str(i), {**head, **label})
        found.append(read_caption_tsv(path, min_score=0.5)[0])
        assert sniffed(path)[0] == "caption-tsv"
    for sample in found:
        assert sample.names == ("two dogs", "dogs a ball")
        np.testing.assert_allclose(sample.scores, [0.9, 0.7])
        np.testing.assert_allclose(sample.boxes, [[1, 2, 3, 4], [9, 10, 20, 30]])
        assert sample.image.read() == encoded()


def test_a_lost_box_takes_its_own_span_with_it(tmp_path):
    label = {
        "img_h": 80, "img_w": 100, "caption": "a cat, a dog, an owl", "img_id": "9", "scores": [0.9, 0.8, 0.7],
        "bboxes": [[1, 2, 30, 40], [200, 5, 300, 9], [9, 10, 20, 30]],
        "tokens_positive": [[[2, 5]], [[9, 12]], [[17, 20]]],
    }  # fmt: skip
    (sample,) = read_caption_tsv(caption_set(tmp_path, label))
    assert sample.names == ("cat", "owl")
    np.testing.assert_allclose(sample.scores, [0.9, 0.7])


def test_openimages(tmp_path):
    photo(tmp_path / "images" / "0001eeaf4aed83f9.jpg", 200, 100)
    write(tmp_path / "class-descriptions-boxable.csv", '/m/01g317,Person\n/m/0cmf2,"Fixed-wing, aircraft"\n')
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    header += "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    rows = (
        "0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.1,0.5,0.2,0.4,0,0,0,0,0\n"
        "0001eeaf4aed83f9,xclick,/m/01g317,1,0.1,0.5,0.2,0.4,0,0,1,0,0\n"
        "0001eeaf4aed83f9,xclick,/m/none,1,0.1,0.5,0.2,0.4,0,0,0,0,0\n"
        "000595fe6fee6369,xclick,/m/0cmf2,1,0,1,0,1,0,0,0,0,0\n"
    )
    file = write(tmp_path / "train-annotations-bbox.csv", header + rows)
    labels = write(
        tmp_path / "train-annotations-human-imagelabels-boxable.csv",
        "ImageID,Source,LabelName,Confidence\n0001eeaf4aed83f9,verification,/m/01g317,0\n",
    )
    findings = Findings()
    (sample,) = read_openimages(file, tmp_path / "images", image_labels=labels, findings=findings)
    np.testing.assert_allclose(sample.boxes, [[20, 20, 100, 40]])
    assert (sample.names, sample.negatives, sample.exhaustive) == (("Fixed-wing, aircraft",), ("Person",), False)
    assert findings.counts == {"crowd": 1, "unmapped_class": 1, "missing_image": 1}


def test_visual_genome(tmp_path):
    photo(tmp_path / "VG_100K_2" / "2.jpg")
    write(tmp_path / "image_data.json", [{"image_id": 2, "width": 100, "height": 80, "url": "u", "coco_id": None}])
    objects = [
        {"object_id": 5, "x": 1, "y": 2, "w": 30, "h": 40, "names": ["Clock"], "synsets": ["clock.n.01"]},
        {"object_id": 6, "x": 0, "y": 0, "w": 0, "h": 4, "names": ["clock"]},
    ]
    write(tmp_path / "objects.json", [{"image_id": 2, "objects": objects}, {"image_id": 3, "objects": []}])
    findings = Findings()
    (sample,) = read_visual_genome(tmp_path, findings=findings)
    assert sample.image.endswith("VG_100K_2/2.jpg")
    assert (sample.names, sample.exhaustive) == (("clock",), False)
    assert findings.counts == {"box_degenerate": 1, "annotation_without_image": 1}
    assert sniffed(tmp_path)[0] == "visual-genome"
    both = [
        {"image_id": 2, "width": 100, "height": 80, "coco_id": 9},
        {"image_id": 3, "width": 9, "height": 9, "coco_id": None},
    ]
    write(tmp_path / "image_data.json", both)
    assert [s.image_id for s in read_visual_genome(tmp_path)] == [2, 3]
    (other,) = read_visual_genome(tmp_path, without_coco=True)
    assert (other.image_id, other.categories) == (3, ())


def mdetr(tmp_path, **changes):
    image = {
        "id": 3, "file_name": "7.jpg", "width": 100, "height": 80, "caption": "a cat and a dog",
        "dataset_name": "mixed",
        "original_img_id": 7, "sentence_id": 0, "tokens_negative": [[0, 15]], "data_source": "vg", **changes,
    }  # fmt: skip
    annotations = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0, "tokens_positive": [[2, 5]]},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [5, 6, 7, 8], "iscrowd": 0, "tokens_positive": []},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [5, 6, 7, 8], "tokens_positive": [[12, 15], [40, 44]]},
    ]
    top = {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
        "info": [],
        "licenses": [],
    }
    return write(tmp_path / "final_mixed_train.json", top)


def test_mdetr(tmp_path):
    findings = Findings()
    (sample,) = read_mdetr(mdetr(tmp_path), {"vg": tmp_path}, findings=findings)
    assert sample.names == ("cat", "dog")
    assert findings.counts == {"box_without_phrase": 1, "span_outside": 1}
    assert list(read_mdetr(mdetr(tmp_path), tmp_path, leave_out=["vg"])) == []
    with pytest.raises(DataError, match="from 'vg'"):
        list(read_mdetr(mdetr(tmp_path), {"coco": tmp_path}))
    assert sniffed(mdetr(tmp_path))[0] == "mdetr"


def lines(path, *items):
    return write(path, "".join(json.dumps(item) + "\n" for item in items))


def test_odvg_detection(tmp_path):
    instances = [{"bbox": [1, 2, 30, 40], "label": 1, "category": "dog"}, {"bbox": [1, 2, 30, 40], "label": 9}]
    item = {"filename": "a.jpg", "height": 80, "width": 100, "detection": {"instances": instances}}
    file = lines(tmp_path / "a.jsonl", item, {"filename": "b.jpg", "height": 8})
    (sample,) = read_odvg(file)
    assert (sample.names, sample.categories) == (("dog",), ("dog",))
    write(tmp_path / "coco_label_map.json", {"0": "cat", "1": "dog"})
    findings = Findings()
    (sample,) = read_odvg(file, findings=findings)
    assert (sample.names, sample.categories) == (("dog",), ("cat", "dog"))
    assert findings.counts == {"unmapped_class": 1, "malformed": 1}
    assert sniffed(file)[0] == "odvg"


def test_odvg_grounding(tmp_path):
    regions = [
        {"bbox": [1, 2, 30, 40], "phrase": "a dog", "tokens_positive": [[6, 11]], "score": 0.5},
        {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "phrase": ["a cat", "a dog"], "score": 0.25},
        {"bbox": [1, 2, 3, 4], "phrase": "an owl"},
    ]
    item = {
        "filename": "a.jpg",
        "height": 80,
        "width": 100,
        "grounding": {"caption": "a cat a dog", "regions": regions},
    }
    findings = Findings()
    (sample,) = read_odvg(lines(tmp_path / "a.jsonl", item), findings=findings)
    assert sample.phrase_spans == (((6, 11),), ((0, 5), (6, 11)), ((0, 5), (6, 11)))
    np.testing.assert_allclose(sample.scores, [0.5, 0.25, 0.25])
    assert findings.counts == {"phrase_not_in_caption": 1}
    (tmp_path / "a.jsonl").write_text('{"filename": ')
    with pytest.raises(DataError, match="line 1"):
        list(read_odvg(tmp_path / "a.jsonl"))


def tar(path, **members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def test_webdataset(tmp_path):
    regions = [{"bbox": [1, 2, 30, 40], "phrase": "a dog"}]
    tar(
        tmp_path / "00000.tar",
        a__jpg=encoded(), a__json={"grounding": {"caption": "a dog", "regions": regions}},
        b__jpg=encoded(), b__txt=b" two cats \n",
        c__jpg=encoded(),
        d__jpg=encoded(), d__json=b"{",
    )  # fmt: skip
    tar(tmp_path / "00001.tar", e__png=encoded(30, 20), e__json={"text": "an owl", "width": 30, "height": 20})
    findings = Findings()
    one, two, three = read_webdataset(tmp_path, findings=findings)
    assert (one.names, one.size, one.image_id, one.source) == (("a dog",), (80, 100), "a", "00000")
    assert one.image.read() == encoded()
    assert (two.caption, len(two), three.caption, three.size) == ("two cats", 0, "an owl", (20, 30))
    assert findings.counts == {"missing_annotation": 1, "malformed": 1}
    assert sniffed(tmp_path)[0] == "webdataset"


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": encoded(), "path": None}, "caption": "a dog", "boxes": [[1.0, 2, 30, 40], [5, 5, 5, 9]],
         "tokens_positive": [[[0, 5]], [[2, 5]]], "scores": [0.5, 0.75]},
        {"image": {"bytes": None, "path": "a.jpg"}, "caption": "an owl", "boxes": [],
         "tokens_positive": [], "scores": []},
    ]  # fmt: skip
    photo(tmp_path / "a.jpg")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    one, two = read_parquet(tmp_path / "train.parquet")
    assert (one.names, one.size, one.scores.tolist()) == (("a dog",), (80, 100), [0.5])
    assert (two.image, two.caption) == (str(tmp_path / "a.jpg"), "an owl")
    assert sniffed(tmp_path)[0] == "parquet"
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet"):
        list(read_parquet(tmp_path))


def test_parquet_says_which_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"openglip\[train\]"):
        list(read_parquet(tmp_path / "a.parquet"))


@pytest.mark.parametrize("names", ["[cat, dog]", "\n  0: cat\n  1: dog"])
def test_yolo(tmp_path, names):
    photo(tmp_path / "images" / "train" / "a.jpg")
    photo(tmp_path / "images" / "train" / "b.png")
    photo(tmp_path / "images" / "val" / "c.png")
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.2 0.1\n0 0.1 0.1 0.3 0.1 0.3 0.4\n5 0.5 0.5 0.2 0.1\nx\n")
    write(tmp_path / "data.yaml", f"path: /somewhere/else\ntrain: images/train\nval: ../images/val\nnames: {names}\n")
    findings = Findings()
    one, two = read_yolo(tmp_path, findings=findings)
    np.testing.assert_allclose(one.boxes, [[40, 36, 60, 44], [10, 8, 30, 32]], atol=1e-4)
    assert (one.names, len(two), two.exhaustive) == (("dog", "cat"), 0, True)
    assert findings.counts == {"unmapped_class": 1, "malformed": 1}
    name, splits = sniffed(tmp_path)
    assert (name, {s: len(v) for s, v in splits.items()}) == ("yolo", {"train": 2, "val": 1})
    with pytest.raises(DataError, match="no split 'test'"):
        list(read_yolo(tmp_path, "test"))


XML = """<annotation><folder>VOC2007</folder><filename>000001.jpg</filename>
<size><width>100</width><height>80</height><depth>3</depth></size><segmented>0</segmented>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object></annotation>"""


def test_voc(tmp_path):
    photo(tmp_path / "JPEGImages" / "000001.jpg")
    write(tmp_path / "Annotations" / "000001.xml", XML)
    write(tmp_path / "Annotations" / "000002.xml", "<annotation>")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "000001 \n")
    findings = Findings()
    (sample,) = read_voc(tmp_path, findings=findings)
    assert sample.boxes.tolist() == [[11, 21, 30, 40]]
    assert (sample.names, sample.image) == (("dog",), str(tmp_path / "JPEGImages" / "000001.jpg"))
    assert findings.counts == {"unparsable": 1}
    (sample,) = read_voc(tmp_path, one_based=True, split="train")
    assert sample.boxes.tolist() == [[10, 20, 30, 40]]
    assert [len(v) for v in sniffed(tmp_path)[1].values()] == [1]


def test_label_studio(tmp_path):
    photo(tmp_path / "a b.jpg")
    value = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0, "rectanglelabels": ["Car"]}
    base = {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 100,
        "original_height": 80,
    }
    tasks = [
        {
            "id": 4, "data": {"image": "/data/local-files/?d=a%20b.jpg"},
            "annotations": [
                {"result": [
                    {**base, "value": value}, {**base, "value": {**value, "rotation": 30}}, {"type": "choices"},
                ]},
                {"was_cancelled": True, "result": []},
            ],
        },
        {
            "id": 5, "data": {"image": "http://x/a%20b.jpg"},
            "predictions": [{"result": [{**base, "value": value, "score": 0.5}]}],
        },
    ]  # fmt: skip
    findings = Findings()
    one, two = read_label_studio(write(tmp_path / "export.json", tasks), findings=findings)
    assert one.boxes.tolist() == [[10, 20, 30, 60]]
    assert (one.names, one.image, one.image_id) == (("Car",), str(tmp_path / "a b.jpg"), 4)
    assert (two.scores.tolist(), two.image) == ([0.5], one.image)
    assert findings.counts == {"malformed": 1}
    assert sniffed(tmp_path / "export.json")[0] == "label-studio"


def test_every_format_names_the_file_that_is_missing(tmp_path):
    (tmp_path / "folder").mkdir()
    for format in FORMATS:
        with pytest.raises((DataError, MissingExtraError), match=str(tmp_path)):
            list(format.read(tmp_path / "folder" / f"nothing.{format.name}", tmp_path, Findings()))
