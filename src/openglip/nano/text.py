"""The text side of the embedded model: a frozen MiniLM that encodes each segment of a prompt by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.bert import FIRST, LAST, Bert
from openglip.prompts.tables import coco_thesaurus, read_table

VOCABULARY = 30522
FULL_STOP, PADDING = 1012, 0  # token ids of "." and [PAD]
TEXT_DIM = 384


class WordTable(nn.Module):
    """Word vectors in eight bits with one scale per word: a quarter of the size on disk and in memory."""

    values: Tensor
    scale: Tensor

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(words, dim, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(words, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.values).to(self.scale.dtype) * F.embedding(ids, self.scale)


def text_encoder(max_tokens: int) -> Bert:
    """A six-layer MiniLM (Wang et al., 2020) whose words are stored in eight bits."""
    bert = Bert(dim=TEXT_DIM, layers=6, heads=12, hidden=1536, positions=max_tokens, dropout=0.0)
    bert.embeddings.word_embeddings = WordTable(VOCABULARY, TEXT_DIM)  # type: ignore[assignment]
    return bert


def encode_segments(bert: Bert, ids: Tensor, mask: Tensor) -> Tensor:
    """Encode each segment between full stops as if it were a text of its own.

    Args:
        bert: Of `text_encoder`.
        ids: B x L int64, token ids.
        mask: B x L bool, False on padding.

    Returns:
        B x L x 768: features of each token, then the mean feature of its segment; zeros for full stops, [CLS] and
        [SEP].
    """
    rows, columns = segments(ids, mask)
    dtype = bert.embeddings.LayerNorm.weight.dtype
    hidden = ids.new_zeros((*ids.shape, 2 * TEXT_DIM), dtype=dtype)
    if not rows:
        return hidden
    length = max(len(c) for c in columns)
    texts = ids.new_full((len(rows), length + 2), PADDING)
    for i, (row, positions) in enumerate(zip(rows, columns, strict=True)):
        texts[i, : len(positions) + 2] = torch.cat(
            [ids.new_tensor([FIRST]), ids[row, positions], ids.new_tensor([LAST])]
        )
    real = texts != PADDING
    encoded = bert(texts, real)
    mean = (encoded * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    for i, (row, positions) in enumerate(zip(rows, columns, strict=True)):
        tokens = encoded[i, 1 : len(positions) + 1]
        hidden[row, positions] = torch.cat([tokens, mean[i].expand_as(tokens)], 1).to(dtype)
    return hidden


def word_mask(ids: Tensor, mask: Tensor) -> Tensor:
    """Where tokens are words: not full stops, [CLS], [SEP] or padding. B x L bool."""
    return mask & (ids != FULL_STOP) & (ids != FIRST) & (ids != LAST) & (ids != PADDING)


def segments(ids: Tensor, mask: Tensor) -> tuple[list[int], list[Tensor]]:
    """Runs of tokens between full stops: the row of each in the batch, and its columns."""
    if ids.is_meta:  # without values each row counts as one run
        return list(range(len(ids))), [torch.arange(ids.shape[1], device=ids.device)] * len(ids)
    is_word = word_mask(ids, mask)
    rows: list[int] = []
    columns: list[Tensor] = []
    for row, flags in enumerate(is_word):
        positions = flags.nonzero()[:, 0]
        if len(positions):
            runs = torch.tensor_split(positions, ((positions.diff() > 1).nonzero()[:, 0] + 1).cpu())
            rows += [row] * len(runs)
            columns += runs
    return rows, columns


def class_synonyms() -> list[tuple[str, int]]:
    """Each synonym of the thesaurus with the number of its COCO class."""
    return [(word, i) for i, name in enumerate(read_table("coco")) for word in coco_thesaurus().get(name, ())]
