"""Any format to any other that can be written, by way of samples; reports what the other one can't hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openglip.data.files import image_content
from openglip.data.findings import Finding, Findings
from openglip.data.format import Format
from openglip.data.formats import BY_NAME, FORMATS
from openglip.data.reading import open_splits
from openglip.errors import ConfigError, DataError
from openglip.files import FileSlice, StrPath
from openglip.runtime import Progress
from openglip.structures.sample import Sample


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Attributes:
        written: The file or folder of each split.
        samples: How many samples were written.
        lost: How many samples lost each kind of information that the format can't hold ("categories": how many names).
        findings: Annotations and images that could not be read.
        left_out: Counts of all that was left out, by kind of finding or note.
    """

    written: dict[str, str]
    samples: int
    lost: dict[str, int]
    findings: list[Finding]
    left_out: dict[str, int]


def convert(
    path: StrPath,
    output: StrPath,
    *,
    format: str | None = None,
    source_format: str | None = None,
    images: StrPath | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Conversion:
    """Write every split of a data set in another format.

    A missing image is a finding and left out where the format holds images; a row of a TSV set or a part of a tar that
    can't be read is left out everywhere.

    Args:
        path: A file or folder in any format.
        output: A file (.json: COCO, .jsonl: ODVG), or a folder, which gets one file or folder per split.
        format: Name of the format to write, where `output` does not tell it.
        source_format: Name of the format of `path`, where that does not tell it.
        images: Folder or uncompressed tar of the images, where they are not next to the annotations.
        progress: Called with the number of samples written so far.

    Returns:
        What was written and what was lost.

    Raises:
        DataError: `path` does not exist.
        ConfigError: A format is unknown or can't be told, `output` holds files already, or it can't hold the splits.
    """
    target = Path(output)
    into = _format_of(target, format)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{output} exists already: choose another path")
    splits = open_splits(path, source_format, images)
    if len(splits) > 1 and target.suffix:
        raise ConfigError(f"{path} has {len(splits)} splits ({', '.join(splits)}): give a folder instead of {output}")
    assert into.write is not None
    writers = into.write_splits(list(splits)) if into.write_splits is not None else dict.fromkeys(splits, into.write)
    findings, lost, written = Findings(), Counter[str](), dict[str, str]()
    samples = _Samples(findings, needs_images=not into.suffixes, progress=progress)
    for name, split in splits.items():
        split_target = _target_of(target, into, name, len(splits))
        lost += writers[name](samples.of(split.samples(findings), name), split_target)
        written[name] = str(split_target)
    return Conversion(written, samples.count, dict(lost), findings.items, dict(findings.counts))


def _format_of(target: Path, name: str | None) -> Format:
    writable = {format.name: format for format in FORMATS if format.write is not None}
    if name is None:
        name = next((f.name for f in writable.values() if target.suffix.lower() in f.suffixes), None)
    if name not in writable:
        raise ConfigError(f"{target}: can't write {name or 'it'}: give the format, one of {', '.join(writable)}")
    return BY_NAME[name]


def _target_of(target: Path, format: Format, split: str, splits: int) -> Path:
    """The file or folder of one split."""
    if format.write_splits is not None or target.suffix:
        return target
    if format.suffixes:
        return target / f"{split}{format.suffixes[0]}"
    return target / split if splits > 1 else target


class _Samples:
    """Samples on their way to a writer: counted, and without those whose image can't be copied."""

    def __init__(self, findings: Findings, *, needs_images: bool, progress: Callable[[Progress], None] | None) -> None:
        self.findings, self.needs_images, self.progress = findings, needs_images, progress
        self.count = 0

    def of(self, samples: Iterable[Sample], split: str) -> Iterator[Sample]:
        for sample in samples:
            if self.needs_images and isinstance(sample.image, str) and not Path(sample.image).is_file():
                self.findings.add("missing_image", sample.image, sample.image_id, f"{sample.image}: no such file")
                continue
            if isinstance(sample.image, FileSlice):  # every format copies it
                try:
                    image_content(sample.image)
                except DataError as error:
                    self.findings.add("unreadable_image", sample.image, sample.image_id, str(error))
                    continue
            self.count += 1
            yield sample
            if self.progress is not None:
                self.progress(Progress(self.count, None, "samples", split))
