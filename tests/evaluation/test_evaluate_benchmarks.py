"""Every benchmark from predictions, as a user calls it."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation.random_sets import random_coco
from evaluation.test_evaluate_goldens import GOLDENS, write_entities
from typer.testing import CliRunner

import openglip
from openglip.cli.main import app
from openglip.errors import ConfigError, DataError
from openglip.evaluation.coco import FIGURES
from openglip.evaluation.odinw import find_sets, names_and_wordings
from openglip.prompts.tables import coco_ov_split, odinw_sets, read_table


def run(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def square(i: int, image: int, category: int = 1, box=(10, 10, 40, 40)):
    return {
        "id": i,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def hit(image: int, score: float, category: int = 1, box=(10, 10, 40, 40)):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def coco_file(annotations, names=("cat",), images: int = 4):
    return {
        "images": [{"id": i, "width": 100, "height": 80, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
    }


class TestReport:
    def test_command_writes_and_prints_it(self, tmp_path: Path) -> None:
        truth, found = random_coco(5)
        truth, found = write(tmp_path / "t.json", truth), write(tmp_path / "p.json", found)
        done = run("coco", "--annotations", truth, "--predictions", found, "--output", tmp_path / "o", "--json")
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / "o/report.json").read_text())
        assert json.loads(done.stdout) == report
        assert set(report) == {"benchmark", "figures", "protocol", "per_category", "published"}
        protocol = report["protocol"]
        assert len(protocol["annotations_sha256"]) == len(protocol["predictions_sha256"]) == 64
        assert {"command", "versions", "seconds_judging", "split_sha256", "cap", "metric", "zero_shot"} <= set(protocol)
        assert any(row["model"] == "DyHead-T" and "arXiv" in row["source"] for row in report["published"])

    def test_table_is_in_points_beside_the_published_rows(self, tmp_path: Path) -> None:
        truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
        found = write(tmp_path / "p.json", [hit(0, 0.5)])
        printed = run("coco", "--annotations", truth, "--predictions", found, "--title", "my run").stdout
        assert re.search(r"my run +training data not known +100\.0 +100\.0", printed)
        assert re.search(r"GLIP-T \(C\) Swin-T +zero-shot, val2017 +46\.7 ", printed)

    def test_compare_says_what_differs(self, tmp_path: Path) -> None:
        truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
        for name, options in (("a", []), ("b", ["--plus-one"])):
            found = write(tmp_path / f"{name}.json", [hit(0, 0.5)])
            run("coco", "--annotations", truth, "--predictions", found, "--output", tmp_path / name, *options)
        printed = run("compare", tmp_path / "a", tmp_path / "b/report.json").stdout
        assert 'the protocols differ in widths: "x2 - x1 + 1" / "x2 - x1"' in printed
        assert printed.count("Faster RCNN RN50-FPN") == 1

    def test_wrong_use_and_failure_have_their_status(self, tmp_path: Path) -> None:
        truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
        bad = write(tmp_path / "p.json", [hit(9, 0.5)])
        done = run("coco", "--annotations", truth, "--predictions", bad)
        assert done.exit_code == 1
        assert "p.json: entry 0 (image_id 9)" in done.stderr
        assert run("coco", "--annotations", truth).exit_code == 2
        assert run("coco", "--annotations", truth, "--predictions", bad, "--split", "minival").exit_code == 2
        assert run("coco", "--annotations", tmp_path / "none.json", "--predictions", bad).exit_code == 2


def test_plus_one_is_the_official_width() -> None:
    truth = coco_file([square(1, 0, box=(10, 10, 11, 11))])
    found = [hit(0, 0.5, box=(10, 10, 10, 10))]
    assert openglip.evaluate("coco", truth, predictions=found).figures["AP75"] == pytest.approx(1.0)
    assert openglip.evaluate("coco", truth, predictions=found).figures["AP"] < 1.0
    report = openglip.evaluate("coco", truth, predictions=found, plus_one=True)
    assert report.figures["AP"] == pytest.approx(1.0)
    assert report.protocol["widths"] == "x2 - x1 + 1"


class TestOpenVocabularyCoco:
    def test_split_is_the_published_one(self) -> None:
        split = coco_ov_split()
        assert (len(split["base"]), len(split["novel"])) == (48, 17)
        assert len({*split["base"], *split["novel"]}) == 65
        assert {*split["base"], *split["novel"]} <= set(read_table("coco"))

    def test_generalized_figures_and_both_conventions(self) -> None:
        truth = coco_file(
            [square(1, 0, 1), square(2, 1, 2), square(3, 2, 3)], names=("person", "cat", "stop sign"), images=5
        )
        found = [hit(0, 0.9, 1), hit(1, 0.9, 2), hit(1, 0.8, 1), hit(2, 0.9, 3), hit(4, 0.95, 2)]
        every = openglip.evaluate("coco-ov", truth, predictions=found)
        assert set(every.figures) == {"AP50_novel", "AP50_base", "AP50_all"}
        assert every.figures["AP50_base"] == pytest.approx(1.0)
        assert every.figures["AP50_novel"] == pytest.approx(0.5)  # image 4 has none of the classes: a false alarm
        assert every.figures["AP50_all"] == pytest.approx(0.75)
        assert set(every.per_category) == {"person", "cat"}
        labelled = openglip.evaluate("coco-ov", truth, predictions=found, labelled_only=True)
        assert labelled.figures["AP50_novel"] == pytest.approx(1.0)
        assert labelled.protocol["images_judged"] == 2
        assert "4,836" in str(labelled.protocol["convention"])
        with pytest.raises(DataError, match="none of the 65"):
            openglip.evaluate("coco-ov", coco_file([], names=("dragon",)), predictions=[])


def test_minival_is_told_from_the_urls() -> None:
    truth, found = random_coco(2, federated=True)
    for image in truth["images"][:5]:
        image["coco_url"] = image["coco_url"].replace("val2017", "train2017")
    whole = openglip.evaluate("lvis", truth, predictions=found)
    mini = openglip.evaluate("lvis", truth, predictions=found, split="minival")
    assert (whole.protocol["images"], mini.protocol["images"]) == (12, 7)
    assert {"AP_fixed", "APr_fixed", "APc_fixed", "APf_fixed", "AP", "APr", "APc", "APf"} <= set(mini.figures)
    assert "10000" in str(mini.protocol["AP_fixed"])
    assert "300" in str(mini.protocol["AP"])


class TestFlickr:
    def test_root_and_mdetr_file_agree(self, tmp_path: Path) -> None:
        write_entities(tmp_path)
        golden = json.loads((GOLDENS / "eval_flickr/ground_truth.json").read_text())
        images, rows = [], []
        for stem, record in golden["images"].items():
            for number, phrases in ((n, golden["phrases_evaluated"].get(f"{stem}_{n}")) for n in range(9)):
                if phrases is None:
                    continue
                spans = [[[10 * i, 10 * i + 5]] for i in range(len(phrases))]
                key = len(images)
                images.append({"id": key, "file_name": f"{stem}.jpg", "height": 1, "width": 1, "caption": "x" * 99})
                images[-1] |= {"sentence_id": number, "original_img_id": int(stem), "tokens_positive_eval": spans}
                for span, phrase in zip(spans, phrases, strict=True):
                    for x1, y1, x2, y2 in record["boxes"][phrase["phrase_id"]]:
                        rows.append({"image_id": key, "bbox": [x1, y1, x2 - x1, y2 - y1], "tokens_positive": span})
        mdetr = write(tmp_path / "mdetr.json", {"images": images, "annotations": rows})
        predictions = GOLDENS / "eval_flickr/predictions.json"
        reports = [openglip.evaluate("flickr30k", source, predictions=predictions) for source in (tmp_path, mdetr)]
        for name in ("any_box/R@1", "any_box/R@10", "merged_box/R@5", "merged_box/R@all"):
            assert reports[0].figures[name] == reports[1].figures[name]
        assert reports[1].figures["any_box/R@1/people"] == -1.0  # the file knows no types

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda rows: rows[1:], "sentence 0 of image 1000 is missing"),
            (lambda rows: [*rows, rows[0]], r"entry 24 \(image 1000, sentence 0\): the sentence is there twice"),
            (lambda rows: [{**rows[0], "image_id": 5}, *rows[1:]], r"entry 0 \(image 5, sentence 0\): no such image"),
            (lambda rows: [{**rows[0], "boxes": rows[0]["boxes"][1:]}, *rows[1:]], "2 lists of boxes for 3 phrases"),
            (lambda rows: [{**rows[0], "boxes": [[[0, 0, 1, float("nan")]], [], []]}, *rows[1:]], "not finite"),
            (lambda rows: [{"image_id": 1000}, *rows[1:]], "entry 0 is not a sentence with boxes"),
        ],
    )
    def test_predictions_are_checked(self, tmp_path: Path, change, message: str) -> None:
        write_entities(tmp_path)
        rows = json.loads((GOLDENS / "eval_flickr/predictions.json").read_text())
        found = write(tmp_path / "found.json", change(rows))
        with pytest.raises(DataError, match=rf"found\.json: .*{message}"):
            openglip.evaluate("flickr30k", tmp_path, predictions=found)

    def test_empty_lists_are_misses_and_ids_choose(self, tmp_path: Path) -> None:
        write_entities(tmp_path)
        rows = json.loads((GOLDENS / "eval_flickr/predictions.json").read_text())
        empty = [{**row, "boxes": [[] for _ in row["boxes"]]} for row in rows]
        figures = openglip.evaluate("flickr30k", tmp_path, predictions=empty).figures
        assert {v for k, v in figures.items() if k.count("/") == 1} == {0.0}
        one = openglip.evaluate("flickr30k", tmp_path, predictions=rows, ids=["1000"])
        assert one.protocol["sentences"] == 2
        with pytest.raises(DataError, match="no image 31"):
            openglip.evaluate("flickr30k", tmp_path, predictions=rows, ids=["31"])


class TestOdinw:
    def test_tables(self) -> None:
        sets = odinw_sets()
        assert len(sets) == 35
        assert sum(s.thirteen for s in sets.values()) == 13
        rabbits = sets["CottontailRabbits"]
        assert rabbits.names("original") == ("Cottontail-Rabbit",)
        assert rabbits.names("paper-13") == rabbits.names("repo-35") == ("rabbit",)
        assert sets["NorthAmericaMushrooms"].names("repo-35") == ("flat mushroom", "yellow mushroom")
        worded = {name: ["".join(w) for w in s.wordings] for name, s in sets.items() if s.wordings}
        assert worded["pothole"] == ["there are some holes on the road"]
        assert worded["Packages"] == ["there is a package on the porch"]
        assert worded["EgoHands_generic"] == [" hand of a person"]
        assert worded["Aquarium"][2] == "penguin , which is black and white"
        assert len(worded) == 4
        with pytest.raises(ConfigError, match="not one of the paper's thirteen"):
            names_and_wordings(sets["BCCD"], ("a", "b", "c"), "paper-13")

    def test_mean_and_median_over_the_sets_found(self, tmp_path: Path) -> None:
        truth = coco_file([square(1, 0), square(2, 1)])
        values = {"Raccoon": [hit(0, 0.9), hit(1, 0.8)], "pothole": [hit(0, 0.9)], "BCCD": []}
        published = {name: info.annotation_path(info.split) for name, info in odinw_sets().items() if name in values}
        assert published["BCCD"] == "BCCD/BCCD.v3-raw.coco/valid/annotations_without_background.json"
        for name, rows in values.items():
            write(tmp_path / "data" / published[name], truth)
            write(tmp_path / "found" / f"{name}.json", rows)
        arguments = ("--annotations", tmp_path / "data", "--predictions", tmp_path / "found", "--json")
        done = run("odinw", *arguments)
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        figures = report["figures"]
        aps = [figures[f"{name}/AP"] for name in values]
        assert aps[0] == pytest.approx(1.0)
        assert aps[2] == 0.0
        assert figures["mean"] == figures["mean/AP"] == pytest.approx(np.mean(aps))
        assert figures["median"] == figures["median/AP"] == pytest.approx(np.median(aps))
        assert {f"{n}/{f}" for n in ("mean", "median", *values) for f in FIGURES} <= set(figures)
        assert len(report["protocol"]["sets"]["BCCD"]["sets_missing"]) == 32
        assert run("odinw", *arguments, "--sets", "odinw-13").exit_code == 1
        two = json.loads(run("odinw", *arguments, "--sets", "pothole,Raccoon").stdout)
        assert two["figures"]["mean"] == pytest.approx(np.mean(aps[:2]))
        assert find_sets(tmp_path / "data")[0][0].name == "BCCD"
        with pytest.raises(ConfigError, match="'Dragons' is no ODinW set"):
            find_sets(tmp_path / "data", "Dragons")


class TestRefcoco:
    EXPRESSIONS = ((7, (10, 10, 40, 40)), (8, (50, 20, 30, 30)), (9, (0, 0, 20, 20)))
    FOUND = (
        {"ref_id": 7, "bbox": [10, 10, 40, 40], "score": 0.5},
        {"ref_id": 7, "bbox": [0, 0, 5, 5], "score": 0.5, "category_id": 1},  # of equal scores the first counts
        {"ref_id": 8, "bbox": [50, 20, 30, 30], "score": 0.3},
        {"ref_id": 8, "bbox": [0, 0, 5, 5], "score": 0.4},
    )

    def test_mdetr_file(self, tmp_path: Path) -> None:
        images = [{"id": i, "file_name": "a.jpg", "caption": "the left one"} for i, _ in self.EXPRESSIONS]
        rows = [{"image_id": i, "bbox": box} for i, box in self.EXPRESSIONS]
        source = write(tmp_path / "refs.json", {"images": images, "annotations": rows})
        report = openglip.evaluate("refcoco", source, predictions=list(self.FOUND))
        assert report.figures == {"P@1": pytest.approx(1 / 3)}
        assert report.protocol["expressions_without_a_box"] == 1
        found = write(tmp_path / "found.json", [{"ref_id": 6, "bbox": [0, 0, 1, 1], "score": 1}])
        with pytest.raises(DataError, match=r"found\.json: entry 0 \(ref_id 6\)"):
            openglip.evaluate("refcoco", source, predictions=found)

    def test_folder_as_distributed(self, tmp_path: Path) -> None:
        boxes = [{"id": 100 + i, "image_id": 1, "bbox": box} for i, box in self.EXPRESSIONS]
        write(tmp_path / "instances.json", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": boxes})
        refs = [
            {
                "ann_id": 100 + i,
                "image_id": 1,
                "split": "val" if i < 9 else "testA",
                "sentences": [{"sent_id": i, "sent": "x"}],
            }
            for i, _ in self.EXPRESSIONS
        ]
        (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        assert openglip.evaluate("refcoco", tmp_path, predictions=list(self.FOUND), split="val").figures["P@1"] == 0.5
        with pytest.raises(DataError, match="It holds testA, val, not None"):
            openglip.evaluate("refcoco", tmp_path, predictions=[])
        (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Path("x")))
        with pytest.raises(DataError, match="not a plain pickle"):
            openglip.evaluate("refcoco", tmp_path, predictions=[], split="val")


class TestCustom:
    def test_thresholds_false_alarms_and_calibration(self, tmp_path: Path) -> None:
        truth = coco_file([square(1, 0), square(2, 1), square(3, 2, 2)], names=("cat", "dog", "cow"))
        found = [
            *(hit(0, 0.9), hit(1, 0.6), hit(2, 0.5), hit(3, 0.4)),  # cat: right, right, wrong, wrong
            hit(2, 0.3, 2, box=(60, 60, 10, 10)),  # dog: never right
            hit(3, 0.8, 3),  # cow: no objects
        ]
        source, rows = write(tmp_path / "t.json", truth), write(tmp_path / "p.json", found)
        done = run("custom", "--annotations", source, "--predictions", rows, "--output", tmp_path / "o", "--json")
        report = json.loads(done.stdout)
        thresholds = json.loads((tmp_path / "o/thresholds.json").read_text())
        assert set(thresholds) == {"cat", "dog", "cow"}
        assert 0.5 < thresholds["cat"] < 0.6
        cat = report["per_category"]["cat"]
        assert (cat["F1"], cat["precision"], cat["recall"], cat["false_alarm_rate"]) == (1.0, 1.0, 1.0, 0.0)
        assert report["per_category"]["dog"]["F1"] == 0.0
        assert report["per_category"]["cow"]["F1"] == -1.0
        overall = thresholds["cow"]  # classes without evidence get the cut that is best over all
        assert thresholds["dog"] == overall
        assert report["per_category"]["cow"]["false_alarm_rate"] == (0.25 if overall < 0.8 else 0.0)
        assert report["figures"]["F1"] == pytest.approx(0.5)
        right = [1, 1, 0, 0, 0, 0]
        errors = sum(abs(s - r) for s, r in zip([0.9, 0.6, 0.5, 0.4, 0.3, 0.8], right, strict=True)) / 6
        assert report["figures"]["calibration_error"] == pytest.approx(errors)

    def test_the_threshold_is_the_best_one(self) -> None:
        truth, found = random_coco(11)
        report = openglip.evaluate("custom", truth, predictions=found)
        for name, own in report.per_category.items():
            if own["F1"] <= 0:
                continue
            category = next(c["id"] for c in truth["categories"] if c["name"] == name)
            for cut in np.linspace(0, 1, 21):
                rows = [r for r in found if r["category_id"] == category and r["score"] > cut]
                other = openglip.evaluate("custom", truth, predictions=rows).per_category[name]
                assert other["F1"] <= own["F1"] + 1e-12
            kept = [r for r in found if r["category_id"] == category and r["score"] > own["threshold"]]
            again = openglip.evaluate("custom", truth, predictions=kept).per_category[name]
            assert (again["precision"], again["recall"]) == (own["precision"], own["recall"])


@pytest.mark.parametrize("benchmark", ["lvis", "coco-ov", "custom"])
def test_every_benchmark_with_categories_has_a_page(benchmark: str, tmp_path: Path) -> None:
    truth, found = random_coco(8, federated=True)
    for category, name in zip(truth["categories"], ("person", "cat", "dog", "tv"), strict=True):
        category["name"] = name
    openglip.evaluate(benchmark, truth, predictions=found, output=tmp_path, render=True)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="render needs an output folder"):
        openglip.evaluate(benchmark, truth, predictions=found, render=True)


def test_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    from PIL import Image

    truth, found = random_coco(4)
    for image in truth["images"][:6]:  # the others have no picture: a frame stands for them
        Image.new("RGB", (640, 480), (90, 120, 150)).save(tmp_path / image["file_name"])
    truth["categories"][0]["name"] = "</script><b>x"
    openglip.evaluate("coco", truth, predictions=found, images=tmp_path, output=tmp_path / "o", render=True)
    page = (tmp_path / "o/report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"""(?:src|href)=["']?https?:|@import|url\(http""", page)
    data = json.loads(re.search(r"const data = (\{.*\});", page)[1].replace("<\\/", "</"))  # type: ignore[index]
    assert page.count("</script>") == 1
    assert data["tiles"]["false_positives"]
    assert data["tiles"]["misses"]
    scores = [t["score"] for t in data["tiles"]["false_positives"]]
    assert scores == sorted(scores, reverse=True)
    assert data["counts"]["right"][0] + data["counts"]["wrong"][0] <= len(found)
    assert all(0 <= y <= 1 for curve in data["curves"] for y in curve["y"])


class TestCustomSources:
    def test_yolo_folder(self, tmp_path: Path) -> None:
        from PIL import Image

        for i in range(3):
            for folder in ("images", "labels"):
                (tmp_path / folder / "val").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80)).save(tmp_path / f"images/val/{i}.jpg")
            (tmp_path / f"labels/val/{i}.txt").write_text("1 0.5 0.5 0.2 0.25\n" if i < 2 else "")
        (tmp_path / "data.yaml").write_text("path: .\nval: images/val\nnames: [dog, cat]\n")
        found = [{"image_id": str(i), "category_id": 0, "bbox": [40, 30, 20, 20], "score": 0.9} for i in range(2)]
        report = openglip.evaluate("custom", tmp_path, predictions=found)
        assert report.protocol["category_ids"] == {"cat": 0, "dog": 1}
        assert report.figures["AP"] == pytest.approx(1.0)
        assert report.per_category["dog"]["AP"] == -1.0

    def test_a_split_is_named_where_there_are_several(self, tmp_path: Path) -> None:
        for part in ("train", "val"):
            write(tmp_path / f"annotations/{part}.json", coco_file([square(1, 0)]))
        with pytest.raises(ConfigError, match="holds train, val: name one with split"):
            openglip.evaluate("custom", tmp_path, predictions=[])
        with pytest.raises(ConfigError, match="has no split 'test'; it holds train, val"):
            openglip.evaluate("custom", tmp_path, predictions=[], split="test")
        with pytest.raises(ConfigError, match="one file without splits"):
            openglip.evaluate("custom", tmp_path / "annotations/val.json", predictions=[], split="val")
        assert openglip.evaluate("custom", tmp_path, predictions=[], split="val").figures["AP"] == 0.0

    def test_classes_that_a_source_does_not_label_are_not_judged(self) -> None:
        truth = coco_file([square(1, 0, 1), square(2, 1, 2)], names=("cat", "dog"), images=2)
        found = [hit(0, 0.8, 1), hit(1, 0.8, 2), hit(0, 0.9, 2), hit(1, 0.9, 1)]
        assert openglip.evaluate("custom", truth, predictions=found).figures["AP"] == pytest.approx(0.5)
        truth["info"] = {"source_categories": {"a": [1], "b": [2]}}
        for image, source in zip(truth["images"], "ab", strict=True):
            image["source"] = source
        report = openglip.evaluate("custom", truth, predictions=found)
        assert report.figures["AP"] == pytest.approx(1.0)
        assert report.figures["false_alarm_rate"] == -1.0
        assert "not judged" in str(report.protocol["labelled"])
