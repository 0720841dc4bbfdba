from data.small_sets import encoded, format_of, write

from openglip.data.checking import check
from openglip.data.findings import Findings
from openglip.data.formats.visual_genome import read_visual_genome


def test_visual_genome(tmp_path):
    write(tmp_path / "VG_100K_2" / "2.jpg", encoded())
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
    assert format_of(tmp_path) == "visual-genome"
    both = [
        {"image_id": 2, "width": 100, "height": 80, "coco_id": 9},
        {"image_id": 3, "width": 9, "height": 9, "coco_id": None},
    ]
    write(tmp_path / "image_data.json", both)
    assert [s.image_id for s in read_visual_genome(tmp_path)] == [2, 3]
    (other,) = read_visual_genome(tmp_path, without_coco=True)
    assert (other.image_id, other.categories) == (3, ())


def test_visual_genome_ids_that_come_back(tmp_path):
    write(tmp_path / "VG_100K" / "1.jpg", encoded(1))
    sizes = [{"image_id": 1, "width": 100, "height": 80}, {"image_id": 1, "width": 500, "height": 400}]
    write(tmp_path / "image_data.json", sizes)
    place = {"object_id": 7, "x": 1, "y": 2, "w": 30, "h": 40}
    objects = [{**place, "names": ["cat"]}, {**place, "names": ["dog"]}]
    write(tmp_path / "objects.json", [{"image_id": 1, "objects": objects}])
    report = check(tmp_path)
    assert [(f.kind, f.id) for f in report.findings] == [("duplicate_id", 1), ("duplicate_id", 7)]
    assert report.counts["boxes"] == 2
