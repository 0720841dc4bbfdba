import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from openglip.cli.main import app


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in (1, 2):
        Image.new("RGB", (100, 80), (90 * i, 90, 90)).save(tmp_path / "pictures" / f"{i}.jpg")
    write(tmp_path)
    return tmp_path


def write(folder, box=(1, 2, 30, 40)):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": list(box)}],
    }
    (folder / "a.json").write_text(json.dumps(content))


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_check_of_a_clean_set(folder):
    done = run("check", folder / "a.json", "--images", folder / "pictures", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"findings": [], "counts": {"images": 2, "boxes": 1}}
    done = run("check", folder / "a.json", "--images", folder / "pictures")
    assert (done.exit_code, done.stdout) == (0, "")


def test_check_of_faults(folder):
    write(folder, box=(90, 2, 30, 40))
    done = run("check", folder / "a.json", "--images", folder / "pictures", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    (finding,) = document["findings"]
    assert set(finding) == {"kind", "file", "id", "message"}
    assert (finding["kind"], finding["id"]) == ("box_outside", 5)
    assert document["counts"]["box_outside"] == 1
    done = run("check", folder / "a.json", "--images", folder / "pictures")
    assert done.exit_code == 1
    assert "box_outside" in done.stdout
    (folder / "a.json").write_text("{")
    done = run("check", folder / "a.json", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["findings"][0]["kind"] == "unparsable"


def test_wrong_use(folder):
    assert run("check", folder / "nothing").exit_code == 2
    assert run("check", folder / "pictures").exit_code == 2
    assert run("check", folder / "a.json", "--format", "cocoa").exit_code == 2
    assert run("check", folder / "a.json", "--against", "val").exit_code == 2
    twice = run("check", folder / "a.json", *["--against", f"val={folder}"] * 2)
    assert twice.exit_code == 2
    assert "val is given twice" in twice.output
    assert run("convert", folder / "a.json", folder / "x").exit_code == 2


def test_convert(folder):
    done = run(
        "convert", folder / "a.json", folder / "out", "--format", "voc", "--images", folder / "pictures", "--json"
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["samples"], document["lost"]) == (2, {"categories": 1})
    assert (folder / "out" / "JPEGImages" / "1.jpg").read_bytes() == (folder / "pictures" / "1.jpg").read_bytes()
    done = run("convert", folder / "a.json", folder / "again", "--format", "yolo")
    assert done.exit_code == 1
    assert "missing_image" in done.stdout


def test_render(folder):
    done = run("render", folder / "a.json", "--images", folder / "pictures", "--output", folder / "out")
    assert done.exit_code == 0, done.output
    files = done.stdout.split()
    assert len(files) == 2
    assert Image.open(files[0]).width >= 100
    (folder / "pictures" / "1.jpg").unlink()
    done = run("render", folder / "a.json", "--images", folder / "pictures", "--output", folder / "out", "--json")
    assert done.exit_code == 1
    assert [p["error"] is None for p in json.loads(done.stdout)["pictures"]] == [False, True]
