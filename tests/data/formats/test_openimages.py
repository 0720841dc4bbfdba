import numpy as np
from data.small_sets import encoded, read_all, write

from openglip.data.checking import check
from openglip.data.findings import Findings
from openglip.data.formats.openimages import read_openimages


def test_openimages(tmp_path):
    write(tmp_path / "images" / "0001eeaf4aed83f9.jpg", encoded(size=(200, 100)))
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


def test_verified_labels_are_those_of_the_same_split(tmp_path):
    write(tmp_path / "class-descriptions-boxable.csv", "/m/1,Cat\n/m/2,Dog\n/m/3,Bus\n")
    for split, absent in (("train", "/m/2"), ("test", "/m/3")):
        write(tmp_path / f"{split}1.jpg", encoded(1))
        rows = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
        write(tmp_path / f"{split}-annotations-bbox.csv", rows + f"{split}1,x,/m/1,1,0.1,0.5,0.1,0.5,0\n")
        labels = f"ImageID,Source,LabelName,Confidence\n{split}1,v,{absent},0\n"
        write(tmp_path / f"{split}-annotations-human-imagelabels-boxable.csv", labels)
    found, _ = read_all(tmp_path)
    assert {name: samples[0].negatives for name, samples in found.items()} == {
        "train-annotations-bbox": ("Dog",),
        "test-annotations-bbox": ("Bus",),
    }


def test_a_field_too_long_for_csv_is_reported(tmp_path):
    write(tmp_path / "class-descriptions-boxable.csv", "/m/1,Cat\n")
    rows = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n" + "x" * 140_000 + "\n"
    report = check(write(tmp_path / "train-annotations-bbox.csv", rows))
    assert [f.kind for f in report.findings] == ["unparsable"]
