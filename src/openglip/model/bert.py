"""BERT encoder and the single BERT layer that GLIP's tower reuses; source: BERT (Devlin et al., 2019), post-norm.

Attribute names follow the published bert-base-uncased checkpoint, so that its keys load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.recompute import run_block

FIRST, LAST, STOPS = 101, 102, (1012, 1029)  # [CLS], [SEP], "." and "?"
LIMIT = 5e4  # the official clamp that keeps half precision (largest value 65,504) from overflowing


class SelfAttention(nn.Module):
    """Multi-head self-attention; with `clamp` the logits are held within +-50,000 before the mask."""

    def __init__(self, dim: int, heads: int, dropout: float, clamp: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.clamp = heads, dropout, clamp
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: B x L x D; mask: B x L bool, True on real tokens, or B x L x L: what each token sees."""
        mask = mask[:, None] if mask.ndim == 3 else mask[:, None, None]
        b, length, dim = x.shape
        q, k, v = (p(x).view(b, length, self.heads, -1).transpose(1, 2) for p in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        if self.clamp:
            logits = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).clamp(-LIMIT, LIMIT)
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
            x = F.dropout(logits.softmax(-1), dropout) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return x.transpose(1, 2).reshape(b, length, dim)


class Output(nn.Module):
    """Linear layer, dropout, residual, norm."""

    def __init__(self, inner: int, dim: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.dense = nn.Linear(inner, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, residual: Tensor, clamp: bool = False) -> Tensor:
        x = F.dropout(self.dense(x), self.dropout, self.training)
        if clamp:
            x = x.clamp(-LIMIT, LIMIT)
        return self.LayerNorm(x + residual)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float, dropout: float, clamp: bool) -> None:
        super().__init__()
        self.self = SelfAttention(dim, heads, dropout, clamp)
        self.output = Output(dim, dim, eps, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, hidden)

    def forward(self, x: Tensor, clamp: bool) -> Tensor:
        x = self.dense(x)
        if clamp:
            return F.gelu(x.clamp(-LIMIT, LIMIT)).clamp(-LIMIT, LIMIT)
        return F.gelu(x)


class BertLayer(nn.Module):
    """One post-norm transformer layer. clamp: the tower's variant with bounded intermediate values."""

    recompute = False

    def __init__(
        self, dim: int, heads: int, hidden: int, eps: float = 1e-12, dropout: float = 0.1, clamp: bool = False
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.attention = Attention(dim, heads, eps, dropout, clamp)
        self.intermediate = Intermediate(dim, hidden)
        self.output = Output(hidden, dim, eps, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: B x L x D; mask: B x L bool. Returns B x L x D."""
        x = self.attention(x, mask)
        x = self.output(self.intermediate(x, self.clamp), x, self.clamp)
        return x.clamp(-LIMIT, LIMIT) if self.clamp else x


class Embeddings(nn.Module):
    def __init__(self, vocabulary: int, dim: int, positions: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.word_embeddings = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids: B x L; positions: B x L, of each token; None: from 0 on."""
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        first = self.position_embeddings.weight[: ids.shape[1]]
        x = x + (first if positions is None else self.position_embeddings(positions))
        return F.dropout(self.LayerNorm(x), self.dropout, self.training)


class Encoder(nn.Module):
    def __init__(self, layers: int, dim: int, heads: int, hidden: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(dim, heads, hidden, eps, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = run_block(layer, x, mask)
        return x


class Bert(nn.Module):
    """BERT without pooler: token ids B x L (int64) and mask B x L (bool) -> last hidden state B x L x dim.

    sub_sentences: read each part between full stops as if it were the whole text, with positions that start at 0, so
    that the names of a list do not influence each other (Grounding DINO, section 3.4). This is not part of GLIP: it is
    off by default, and right only for weights that were trained with it. The text layers of the tower still read the
    whole prompt.
    """

    sub_sentences = False

    def __init__(
        self,
        vocabulary: int = 30522,
        dim: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        positions: int = 512,
        eps: float = 1e-12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embeddings = Embeddings(vocabulary, dim, positions, eps, dropout)
        self.encoder = Encoder(layers, dim, heads, hidden, eps, dropout)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if not self.sub_sentences:
            return self.encoder(self.embeddings(ids), mask)
        parts, positions = sub_sentences(ids)
        visible = (parts[:, :, None] == parts[:, None]) & mask[:, None]
        # Padding attends to itself, because a softmax over nothing is not a number.
        visible |= torch.eye(ids.shape[1], device=ids.device).bool()
        return self.encoder(self.embeddings(ids, positions), visible)


def sub_sentences(ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the number of its part, and its position in that part: B x L int64 each.

    A part ends with a full stop or a question mark; [CLS] and [SEP] are parts by themselves.
    """
    ends = torch.isin(ids, ids.new_tensor([FIRST, *STOPS]))
    starts = (ids == LAST) | ends.roll(1, 1)
    starts[:, 0] = True
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return starts.cumsum(1), index - torch.where(starts, index, 0).cummax(1).values
