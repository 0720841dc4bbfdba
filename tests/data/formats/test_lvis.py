from data.small_sets import encoded, format_of, write

from openglip.data.formats.lvis import read_lvis


def test_lvis(tmp_path):
    write(tmp_path / "train2017" / "000000391895.jpg", encoded())
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
    assert format_of(file) == "lvis"
