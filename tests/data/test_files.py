import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from data.small_sets import encoded, write, write_tar

from openglip.data.files import DAMAGED, Files, read_json, read_lines, read_names, read_yaml, tar_members
from openglip.errors import DataError, PromptError


def test_a_tar_and_its_folder_hold_the_same_files(tmp_path):
    for name in ("x/a.jpg", "y/b.txt"):
        write(tmp_path / "folder" / name, encoded() if name.endswith("jpg") else " a cat \n")
    with tarfile.open(tmp_path / "folder.tar", "w") as tar:
        tar.add(tmp_path / "folder", ".")
    folder, tar = Files(tmp_path / "folder"), Files(tmp_path / "folder.tar")
    for files in (folder, tar):
        assert files.find("x/a.jpg") is not None
        assert files.find("somewhere/x/a.jpg") is not None
        assert files.find("none.jpg") is None
        assert list(files.by_stem()) == ["a"]
        assert list(files.texts(".txt")) == [("b", " a cat \n")]
    assert str(folder.reference("none.jpg")).endswith("none.jpg")
    assert tar.find("a.jpg").read() == encoded()


@pytest.mark.parametrize("length", [0, 700, 1100])
def test_a_tar_that_breaks_off_says_where(tmp_path, length):
    content = write_tar(tmp_path / "whole.tar", {"a.jpg": b"x" * 100, "b.jpg": b"y" * 100}).read_bytes()
    broken = write(tmp_path / "broken.tar", content[:length] + b"?" * 600)
    with pytest.raises(DataError, match=rf"broken\.tar: {DAMAGED}: after byte \d+"):
        list(tar_members(broken))


def test_a_compressed_tar_is_refused_with_a_reason(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
    with pytest.raises(DataError, match="only uncompressed tars are read"):
        list(tar_members(tmp_path / "a.tar"))


def test_errors_name_file_and_position(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: not json at line 2, column 1"):
        read_json(write(tmp_path / "a.json", "{\n?"))
    with pytest.raises(DataError, match=r"a\.yaml: not yaml"):
        read_yaml(write(tmp_path / "a.yaml", "a: [\n"))
    with pytest.raises(DataError, match=r"b\.yaml: no mapping"):
        read_yaml(write(tmp_path / "b.yaml", "- a\n"))
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 at byte 3"):
        read_lines(write(tmp_path / "a.txt", b"caf\xe9"))
    assert read_lines(write(tmp_path / "b.txt", b"\xef\xbb\xbf a \n\n b\n")) == ["a", "b"]
    with pytest.raises(DataError, match="No such file"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "cup \n\n  dining table\t\r\n"),
        ("obj.names", "\ufeffcup\ndining table"),
        ("names.json", '["cup", "dining table "]'),
        ("list.txt", '["cup", "dining table"]'),
        ("coco.json", '{"images": [], "categories": [{"id": 7, "name": "cup"}, {"id": 9, "name": "dining table"}]}'),
        ("numbered.json", '{"0": "cup", "1": "dining table"}'),
        ("data.yaml", "nc: 2\nnames:\n  0: cup\n  1: dining table\n"),
        ("data.yml", "names: [cup, dining table]\n"),
        ("flow.yaml", "{names: [cup, dining table]}\n"),
        ("list.yaml", "- cup\n- dining table\n"),
    ],
)
def test_names_are_read_from_every_form_of_list(tmp_path, name, content):
    assert read_names(write(tmp_path / name, content)) == ["cup", "dining table"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.csv", "cup,table\n", "is a table"),
        ("names.txt", "\n \n", "holds no name"),
        ("names.json", "[1, 2]", "1 is not a name"),
        ("names.json", '["cup"', "not json"),
        ("names.json", '"cup"', "holds no list of names"),
        ("data.yaml", "names: 3\n", "holds no list of names"),
        ("data.yaml", "nc: 2\n", "2 is not a name"),
        ("names.txt", "cup\ntable".encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_no_list_of_names_is_refused_by_name(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError, match=f"{name}.*{message}.*one per line"):
        read_names(path)


@pytest.mark.skipif(os.name != "posix", reason="a pipe of POSIX")
def test_names_through_a_pipe_are_read_once(tmp_path):
    os.mkfifo(tmp_path / "names")
    with ThreadPoolExecutor() as pool:
        pool.submit((tmp_path / "names").write_text, '["cup"]')
        assert read_names(tmp_path / "names") == ["cup"]
