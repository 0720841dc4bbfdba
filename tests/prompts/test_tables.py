from __future__ import annotations

import pytest

from openglip.prompts.tables import coco_ov_split, coco_thesaurus, odinw_sets, read_table


def test_coco_tables_name_cocos_categories() -> None:
    names = read_table("coco")
    assert len(names) == len(set(names)) == 80
    assert {kind: len(listed) for kind, listed in coco_ov_split().items()} == {"base": 48, "novel": 17}
    assert {name for listed in coco_ov_split().values() for name in listed} <= set(names)
    assert set(coco_thesaurus()) <= set(names)
    words = [word for listed in coco_thesaurus().values() for word in listed]
    assert len(words) == len(set(words)) == 114
    assert not set(words) & set(names)


def test_odinw_has_its_sets_and_the_papers_thirteen() -> None:
    sets = odinw_sets()
    assert len(sets) == 35
    assert sum(entry.thirteen for entry in sets.values()) == 13


@pytest.mark.parametrize("name", odinw_sets())
def test_an_odinw_set_has_one_wording_per_class(name: str) -> None:
    entry = odinw_sets()[name]
    assert entry.wordings is None or len(entry.wordings) == len(entry.original)
    assert entry.annotation_path("val").startswith(entry.folder)
