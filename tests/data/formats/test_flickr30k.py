import tarfile

import pytest
from data.small_sets import encoded, read_only, voc_xml, write, write_tar
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.formats.flickr30k import parse_sentence, read_flickr30k
from openglip.data.views import load
from openglip.errors import DataError

XML = """<annotation><filename>12.jpg</filename><size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>1</name><name>2</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>220</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>200</xmin><ymin>30</ymin><xmax>300</xmax><ymax>330</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"""


SENTENCES = """[/EN#1/people Two men] wear [/EN#2/clothing/other red hats] in [/EN#3/scene a street] .
[/EN#0/notvisual It] is [/EN#3/scene a street] .
"""


@pytest.fixture
def root(tmp_path):
    for name, file, text in (("Annotations", "12.xml", XML), ("Sentences", "12.txt", SENTENCES)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (299, 224)).save(tmp_path / "images" / "12.webp")
    return tmp_path


def test_sentences_phrases_and_boxes(root):
    findings = Findings()
    (sample,) = read_flickr30k(root, findings=findings)
    assert sample.caption == "Two men wear red hats in a street ."
    assert sample.names == ("Two men", "Two men", "red hats")
    assert sample.boxes.tolist() == [[10, 20, 110, 220], [200, 30, 300, 330], [10, 20, 110, 220]]
    assert (sample.image_id, sample.size) == ("12/0", (375, 500))
    assert findings.counts == {"phrase_without_box": 3, "caption_without_box": 1}
    assert not findings.items, "none of these is a fault"


def test_boxes_follow_the_smaller_image(root):
    _, loaded = load(next(read_flickr30k(root)))
    assert loaded.boxes[0].tolist() == pytest.approx([10 * 0.598, 20 * 224 / 375, 110 * 0.598, 220 * 224 / 375])


def test_tars_ids_and_unrelated_sentences(root):
    for name in ("Annotations", "Sentences", "images"):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            tar.add(root / name, name)
        for file in (root / name).iterdir():
            file.unlink()
        (root / name).rmdir()
    (sample,) = read_flickr30k(root)
    assert sample.image.name == "images/12.webp"
    assert list(read_flickr30k(root, ids=["13"])) == []
    (root / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <sentence number>\n12 1\n")
    assert list(read_flickr30k(root)) == []


def test_mark_up():
    caption, phrases = parse_sentence("A [/EN#5/bodyparts/other nose ( big )] and [/EN#6/other it]")
    assert caption == "A nose ( big ) and it"
    assert [(chain, types, caption[b:e]) for chain, types, (b, e) in phrases] == [
        ("5", ("bodyparts", "other"), "nose ( big )"),
        ("6", ("other",), "it"),
    ]


def test_what_is_no_root_or_damaged_is_named(root):
    with pytest.raises(DataError, match="not a Flickr30k Entities root"):
        list(read_flickr30k(root / "Annotations", root / "images"))
    (root / "Annotations" / "12.xml").write_text("<annotation>")
    (root / "Annotations" / "9.xml").write_text("<annotation/>")
    (root / "Sentences" / "9.txt").write_text("A dog .\n")
    findings = Findings()
    assert list(read_flickr30k(root, findings=findings)) == []
    assert [(f.kind, f.id) for f in findings.items if f.kind == "unparsable"] == [
        ("unparsable", "12"),
        ("unparsable", "9"),  # read after the damaged one
    ]


def test_the_research_set_has_the_numbers_its_readme_states(shared):
    samples = list(read_flickr30k(shared / "data/flickr8k_entities/val"))
    assert len(samples) == 2649
    assert sum(len(set(s.phrase_spans)) for s in samples) == 7097


@pytest.mark.parametrize("packed", [False, True])
def test_one_flickr_file_in_another_encoding_does_not_end_the_others(tmp_path, packed):
    box = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    files = {"Annotations": {}, "Sentences": {}}
    for name in ("1", "2", "3"):
        write(tmp_path / "images" / f"{name}.jpg", encoded(int(name)))
        files["Annotations"][f"{name}.xml"] = voc_xml(f"{name}.jpg", 100, 80, box).encode()
        files["Sentences"][f"{name}.txt"] = b"[/EN#1/animals A cat] ."
    files["Annotations"]["2.xml"] = files["Annotations"]["2.xml"].decode().encode("utf-16")
    files["Sentences"]["3.txt"] = "[/EN#1/animals A cat] in a café .".encode("latin-1")
    for folder, members in files.items():
        if packed:
            write_tar(tmp_path / f"{folder}.tar", members)
        else:
            for name, content in members.items():
                write(tmp_path / folder / name, content)
    samples, findings = read_only(tmp_path)
    assert [s.image_id for s in samples] == ["1/0"]
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "2"), ("unparsable", "3")]
