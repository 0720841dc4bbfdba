"""Every citation of `docs/spec.md` points at a section that exists, and no other document is cited in the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "docs" / "spec.md"
FOLDERS = ["src", "tests", "benchmarks", "examples", "projects"]

# "docs/spec.md 6.3", "docs/spec.md sections 8.3 and 9.4", "docs/spec.md 5.3 step 3", "docs/spec.md 7.4 (1)".
# A citation may continue on the next line of a comment, hence the "#" in SPACE.
SPACE = r"(?:\s|#)+"
SECTION = rf"\d+(?:\.\d+)*(?:{SPACE}step{SPACE}\d+|{SPACE}\(\d+\))?"
CITATION = re.compile(
    rf"docs/spec\.md(?:{SPACE}sections?)?{SPACE}({SECTION}(?:(?:{SPACE}|,{SPACE})(?:and{SPACE}|to{SPACE})?{SECTION})*)"
)
REFERENCE = re.compile(rf"(\d+(?:\.\d+)*)(?:{SPACE}(?:step{SPACE}(\d+)|\((\d+)\)))?")
MENTION = re.compile(r"docs/spec\.md")
UNPUBLISHED = re.compile(r"\b(?:GLIP_SPEC|INTERFACE)\b")


def sections(text: str) -> dict[str, set[str]]:
    """The numbers of all sections, each with the numbers of the list items below its heading."""
    numbers: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in text.splitlines():
        if heading := re.match(r"#{2,4} (\d+(?:\.\d+)*) ", line):
            current = numbers.setdefault(heading[1], set())
        elif item := re.match(r"(\d+)\. ", line):
            current.add(item[1])
    return numbers


def citations(text: str) -> list[tuple[str, str | None]]:
    """Each cited section of a file, with the cited step if there is one."""
    return [
        (number, step or item or None)
        for match in CITATION.finditer(text)
        for number, step, item in REFERENCE.findall(match[1])
    ]


def python_files(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if path != Path(__file__).resolve()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Source: docs/spec.md 6.1, 6.2.", [("6.1", None), ("6.2", None)]),
        ("docs/spec.md sections 11.1 and 11.2 (published)", [("11.1", None), ("11.2", None)]),
        ("docs/spec.md 8.4.1 to 8.4.7", [("8.4.1", None), ("8.4.7", None)]),
        ("(docs/spec.md 5.3 step 3 and 7.4 (1))", [("5.3", "3"), ("7.4", "1")]),
        ("# official code (docs/spec.md\n# 5.1)", [("5.1", None)]),
        ("docs/spec.md 2. 100 boxes", [("2", None)]),
    ],
)
def test_citations_are_understood(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert citations(text) == expected


def test_cited_sections_exist() -> None:
    known = sections(SPEC.read_text(encoding="utf-8"))
    problems: list[str] = []
    for path in python_files(*FOLDERS):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        if len(CITATION.findall(text)) != len(MENTION.findall(text)):
            problems.append(f"{name} mentions docs/spec.md without a section")
        for number, step in citations(text):
            if number not in known:
                problems.append(f"{name} cites docs/spec.md {number}, which does not exist")
            elif step is not None and step not in known[number]:
                problems.append(f"{name} cites step {step} of docs/spec.md {number}, which does not exist")
    assert not problems, "\n".join(problems)


def test_no_unpublished_document_is_cited() -> None:
    problems = [
        f"{path.relative_to(ROOT)} cites {name}, which is not part of the repository; cite docs/spec.md"
        for path in python_files("src")
        for name in sorted(set(UNPUBLISHED.findall(path.read_text(encoding="utf-8"))))
    ]
    assert not problems, "\n".join(problems)


def test_section_numbers_are_unique_and_in_order() -> None:
    numbers = re.findall(r"^#{2,4} (\d+(?:\.\d+)*) ", SPEC.read_text(encoding="utf-8"), re.MULTILINE)
    keys = [tuple(map(int, number.split("."))) for number in numbers]
    assert keys == sorted(set(keys))
