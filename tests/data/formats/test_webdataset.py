import json

from data.small_sets import encoded, format_of, odvg_line, read_only, write_tar

from openglip.data.checking import check
from openglip.data.findings import Findings
from openglip.data.formats.webdataset import read_webdataset


def test_webdataset(tmp_path):
    regions = [{"bbox": [1, 2, 30, 40], "phrase": "a dog"}]
    write_tar(
        tmp_path / "00000.tar",
        {
            "a.jpg": encoded(),
            "a.json": {"grounding": {"caption": "a dog", "regions": regions}},
            "b.jpg": encoded(),
            "b.txt": b" two cats \n",
            "c.jpg": encoded(),
            "d.jpg": encoded(),
            "d.json": b"{",
        },
    )
    owl = {"text": "an owl", "width": 30, "height": 20}
    write_tar(tmp_path / "00001.tar", {"e.png": encoded(size=(30, 20)), "e.json": owl})
    findings = Findings()
    one, two, three = read_webdataset(tmp_path, findings=findings)
    assert (one.names, one.size, one.image_id, one.source) == (("a dog",), (80, 100), "a", "00000")
    assert one.image.read() == encoded()
    assert (two.caption, len(two), three.caption, three.size) == ("two cats", 0, "an owl", (20, 30))
    assert findings.counts == {"missing_annotation": 1, "malformed": 1}
    assert format_of(tmp_path) == "webdataset"


def test_a_shards_caption_may_stand_beside_its_numbers(tmp_path):
    size = json.dumps({"url": "x", "width": 100, "height": 80}).encode()
    members = {"a.jpg": encoded(1), "a.json": size, "a.txt": b"two cats", "b.jpg": encoded(2), "b.json": size}
    samples, findings = read_only(write_tar(tmp_path / "0.tar", members))
    assert [(s.image_id, s.caption) for s in samples] == [("a", "two cats")]
    assert [(f.kind, f.id) for f in findings.items] == [("malformed", "b")]


def test_a_shards_names_are_its_instances_without_a_label_map(tmp_path):
    line = odvg_line(category="dog", label=4)
    samples, _ = read_only(write_tar(tmp_path / "0.tar", {"a.jpg": encoded(1), "a.json": json.dumps(line).encode()}))
    assert samples[0].names == ("dog",)


def test_a_name_that_comes_twice_in_a_tar_is_two_samples_and_is_reported(tmp_path):
    twice = [("x/a.jpg", encoded()), ("x/a.json", json.dumps(odvg_line(category="cat")).encode())] * 2
    findings = Findings()
    found = list(read_webdataset(write_tar(tmp_path / "0.tar", twice), findings=findings))
    assert len(found) == 2
    assert found[0].image.offset < found[1].image.offset
    assert [(f.kind, f.id) for f in findings.items] == [("duplicate_id", "x/a")]


def test_hidden_members_of_a_tar_are_no_samples(tmp_path):
    members = [("a.jpg", encoded()), ("a.json", json.dumps(odvg_line(category="cat")).encode()), (".DS_Store", b"x")]
    hidden = [(f"x/._{name}", b"\0\5\x16\7") for name, _ in members]
    path = write_tar(tmp_path / "0.tar", [pair for both in zip(hidden, members, strict=True) for pair in both])
    report = check(path)
    assert (report.findings, report.counts) == ([], {"images": 1, "boxes": 1})
