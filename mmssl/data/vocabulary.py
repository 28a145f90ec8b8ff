"""A vocabulary from captions: those of a data set, or of a table; read as a stream, with a line of progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmssl.data.codecs import decode
from mmssl.data.progress import progress_line
from mmssl.data.sources.tables.rows import JSONL, TEXT_COLUMN, stream_rows
from mmssl.data.sources.tables.table import parted
from mmssl.data.split import Split, find_field
from mmssl.errors import ConfigError, DataError
from mmssl.registry import nearest
from mmssl.storage import write_whole
from mmssl.transforms import SPECIAL, VOCABULARY_SIZE, count_words, vocabulary

TEXT_CODECS = ("json", "txt")


@dataclass
class VocabularyReport:
    """What a vocabulary was made of.

    Args:
        out: the file.
        words: it holds, the special ones among them.
        different: words that the captions hold.
        covered: share of all occurrences of words that the vocabulary holds.
        captions: that were read.
        bad: one line for each record that could not be read.
    """

    out: Path
    words: int
    different: int
    covered: float
    captions: int
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (f"{self.out}: {self.words:,} words, {len(SPECIAL)} of them special, from {self.captions:,} captions "
                f"with {self.different:,} different words; it holds {self.covered:.2%} of all their occurrences")
        more = [f"… and {len(self.bad) - 5} more"] if len(self.bad) > 5 else []
        return "\n".join([text, *(f"left out: {line}" for line in self.bad[:5]), *more])


def build_vocabulary(captions: str | Path, out: str | Path, size: int = VOCABULARY_SIZE, min_count: int = 1,
                     split: str = "train", column: str | None = None) -> VocabularyReport:
    """Write the words of many captions to a file, one a line: `<pad> <bos> <eos> <unk>`, then the most frequent first.

    Args:
        captions: folder of a data set, or a CSV or JSONL table.
        out: file to write; takes the place of one that is there.
        size: words at most, the special ones among them.
        min_count: rarer words are left out.
        split: of the data set; others are not to be known beforehand.
        column: of the table; None: those called caption, text, sentence, description or title. Captions in one cell are
            parted by "|".

    Raises:
        ConfigError: no captions there, no such column, or numbers that make no sense.
        DataError: no such file or split.
    """
    if size <= len(SPECIAL) or min_count < 1:
        raise ConfigError(f"data vocab: size {size}, min-count {min_count}; expected more than {len(SPECIAL)} words, "
                          "and a count of at least 1")
    bad: list[str] = []
    found = _of_data_set(Path(captions), split, bad) if Path(captions).is_dir() else _of_table(Path(captions), column)
    counts: Counter[str] = Counter()
    total = 0
    for texts in found:
        counts.update(count_words(texts))
        total += len(texts)
    if not counts:
        raise ConfigError(f"{captions}: no caption with a word in it, so there is no vocabulary to build")
    words = vocabulary(counts, min_count, size)
    write_whole(Path(out), ("\n".join(words) + "\n").encode())
    held = sum(counts[word] for word in words) / counts.total()
    return VocabularyReport(Path(out), len(words), len(counts), held, total, bad)


def _of_data_set(root: Path, split_name: str, bad: list[str]) -> Iterator[list[str]]:
    """The captions of each record of a split, which alone are read from its shards."""
    split = Split(root, split_name)
    infos = {modality: info for modality, info in split.modalities.items() if info.codec in TEXT_CODECS}
    if not infos:
        raise ConfigError(f"{root}: holds {', '.join(split.modalities)}, but no captions ({', '.join(TEXT_CODECS)})")
    show, done = progress_line(f"counting words of {root}"), 0
    for shard, count in enumerate(split.counts):
        for record in range(count):
            done += 1
            show(done, len(split))
            fields = split.fields(shard, record)
            texts = [name for name in (find_field(fields, modality, TEXT_CODECS) for modality in infos) if name]
            try:
                for name, data in split.read(shard, record, texts).items():
                    yield decode(name.rpartition(".")[2], data).data
            except DataError as error:
                bad.append(f"{': '.join(split.where(shard, record))}: {error}")


def _of_table(path: Path, column: str | None) -> Iterator[list[str]]:
    """The captions of each row of a table."""
    columns: list[str] | None = [column] if column else None
    for row in stream_rows(path, progress_line(f"counting words of {path}")):
        if columns is None:
            columns = [title for title in row if TEXT_COLUMN.fullmatch(title)]
        if not columns or (column and column not in row and path.suffix not in JSONL):
            what = f"no column '{column}'{nearest(column, row)}" if column else "no column is titled like captions"
            raise ConfigError(f"{path}: {what}; name theirs with --column; columns: {', '.join(row)}")
        yield [text for title in columns for text in parted(row.get(title, ""))]
