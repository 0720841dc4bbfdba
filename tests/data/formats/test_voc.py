import pytest
from data.small_sets import OBJECT, encoded, read_all, read_only, voc_xml, write

from openglip.data.files import image_content
from openglip.data.findings import Findings
from openglip.data.formats.voc import read_voc

XML = """<annotation><folder>VOC2007</folder><filename>000001.jpg</filename>
<size><width>100</width><height>80</height><depth>3</depth></size><segmented>0</segmented>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object></annotation>"""


def test_voc(tmp_path):
    write(tmp_path / "JPEGImages" / "000001.jpg", encoded())
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
    assert [len(samples) for samples in read_all(tmp_path)[0].values()] == [1]


def voc(tmp_path, **files):
    for name, tree in files.items():
        write(tmp_path / "Annotations" / f"{name}.xml", tree)
    return tmp_path


def test_voc_trainval_is_read_where_it_is_not_split(tmp_path):
    for name in ("a", "my b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(len(name)))
        voc(tmp_path, **{name: voc_xml(f"{name}.jpg")})
    write(tmp_path / "ImageSets" / "Main" / "trainval.txt", "a\n")
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "my b\n")
    found, findings = read_all(tmp_path)
    assert {name: [s.image_id for s in samples] for name, samples in found.items()} == {
        "trainval": ["a"],
        "test": ["my b"],
    }
    assert not findings.items


def test_voc_images_in_folders_are_told_apart(tmp_path):
    for seed, folder in enumerate(("train", "val")):
        write(tmp_path / "JPEGImages" / folder / "a.jpg", encoded(seed))
    samples, _ = read_only(voc(tmp_path, a=voc_xml("train/a.jpg")))
    assert image_content(samples[0].image) == encoded(0)


def test_one_damaged_voc_file_does_not_end_the_others(tmp_path):
    for name in ("good", "extra"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(len(name)))
    voc(tmp_path, bad=voc_xml("none.jpg", "inf", 0, OBJECT), good=voc_xml("good.jpg"))
    samples, findings = read_only(tmp_path)
    assert [s.image_id for s in samples] == ["good"]
    assert {(f.kind, f.id) for f in findings.items} == {("missing_image", "bad"), ("missing_annotation", "extra")}


@pytest.mark.parametrize("encoding", ["gb2312", "no-such"])
def test_one_voc_file_in_another_encoding_does_not_end_the_others(tmp_path, encoding):
    for name in ("a", "b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(ord(name)))
        voc(tmp_path, **{name: voc_xml(f"{name}.jpg")})
    voc(tmp_path, a=f'<?xml version="1.0" encoding="{encoding}"?>' + voc_xml("a.jpg"))
    samples, findings = read_only(tmp_path)
    assert [s.image_id for s in samples] == ["b"]
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "a")]


def test_voc_images_that_were_renamed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(ord(name)))
        voc(tmp_path, **{name: voc_xml("a.jpg")})
    samples, findings = read_only(tmp_path)
    assert [image_content(s.image) for s in samples] == [encoded(ord("a")), encoded(ord("b"))]
    assert not findings.items
    voc(tmp_path, **{"0": voc_xml("a.jpg")})  # whose own picture is gone
    samples, findings = read_only(tmp_path)
    assert [s.image_id for s in samples] == ["a", "b"]
    assert [(f.kind, f.id) for f in findings.items] == [("duplicate_id", "0")]
