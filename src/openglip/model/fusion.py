"""Bidirectional image-text attention (X-MHA); source: GLIP paper section 3.3, docs/spec.md 5.1.

`attend` follows the formula; `attend_folded` gives the same numbers with the 256 <-> 2048 projections moved to
the text side, where there are at most 256 rows in place of N = 22,400:

    q k^T     = v (Wq^T k) + bq k                   per head
    P_v value = P_v (l Wl) Wo = P_v (l Wl Wo)
    P_l value = P_l (v Wv + bv) = (P_l v) Wv + bv   because the rows of P_l sum to one
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.bert import LIMIT
from openglip.model.linear import HUGE, LOG2E, TINY, in_chunks, linear
from openglip.model.mode import is_plain

# Image rows that are attended at once without gradients; the logits of 2,048 rows and 8 x 194 columns are 13 MB.
CHUNK = 2048
# Added to the logits of padding tokens. The official code adds 1 to all others; softmax is invariant to that shift.
MASKED = -9e15
SAMPLED_ROWS = 200  # image rows whose logits decide where the exponential is centred


class BiAttention(nn.Module):
    """Multi-head attention in both directions from one set of logits.

    image_dim, text_dim: channels of the two sequences; embed_dim: inner width of all heads together.
    dropout acts on both probability tensors in training.
    """

    def __init__(self, image_dim: int, text_dim: int, embed_dim: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout = heads, embed_dim // heads, dropout
        self.v_proj = nn.Linear(image_dim, embed_dim)
        self.l_proj = nn.Linear(text_dim, embed_dim)
        self.values_v_proj = nn.Linear(image_dim, embed_dim)
        self.values_l_proj = nn.Linear(text_dim, embed_dim)
        self.out_v_proj = nn.Linear(embed_dim, image_dim)
        self.out_l_proj = nn.Linear(embed_dim, text_dim)
        for module in self.children():
            nn.init.xavier_uniform_(module.weight)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, v: Tensor, l: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """v: B x N x image_dim; l: B x L x text_dim; mask: B x L bool. Returns the two updates, shaped as v and l."""
        if is_plain():
            return self.attend(v, l, mask)
        if not in_chunks(v):
            return self.attend_folded(v, l, mask)
        parts = [self._attend_chunked(v[i], l[i], mask[i]) for i in range(len(v))]
        if len(parts) == 1:
            return parts[0][0][None], parts[0][1][None]
        return torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])

    def attend(self, v: Tensor, l: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """The formula of the paper, in the steps of the official code (docs/spec.md 5.1)."""
        dropout = self.dropout if self.training else 0.0
        q = self._split(self.v_proj(v) * self.head_dim**-0.5)
        k = self._split(self.l_proj(l))
        logits = (q @ k.transpose(2, 3)).clamp(-LIMIT, LIMIT)  # B heads N L
        transposed = logits.transpose(2, 3)
        transposed = (transposed - transposed.amax(3, keepdim=True)).clamp(-LIMIT, LIMIT)
        p_l = F.dropout(transposed.softmax(3), dropout)  # no mask: the padded image area takes part
        p_v = F.dropout((logits + (mask.to(logits) + ~mask * MASKED)[:, None, None]).softmax(3), dropout)
        delta_v = (p_v @ self._split(self.values_l_proj(l))).transpose(1, 2).flatten(2)
        delta_l = (p_l @ self._split(self.values_v_proj(v))).transpose(1, 2).flatten(2)
        return self.out_v_proj(delta_v), self.out_l_proj(delta_l)

    def attend_folded(self, v: Tensor, l: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """The same with folded projections; differentiable."""
        b, n = v.shape[:2]
        keys, key_bias, values = self._fold_text(l)
        logits = torch.baddbmm(key_bias[:, None], v, keys.transpose(1, 2)).clamp(-LIMIT, LIMIT)  # B N (heads L)
        logits = logits.view(b, n, self.heads, -1).transpose(1, 2)
        p_l, p_v = self._probabilities(logits, mask)
        delta_v = self._out_v(p_v.transpose(1, 2).reshape(b, n, -1), values)
        gathered = p_l.transpose(2, 3).flatten(1, 2) @ v  # B (heads L) image_dim
        # With dropout the rows of p_l no longer sum to one, so the bias is weighted by their true sum.
        sums = p_l.sum(2).transpose(1, 2)  # B L heads
        return delta_v, self._out_l(gathered, sums)

    def _probabilities(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """logits: B x heads x N x L. Softmax over N without any mask (text <- image) and over real tokens."""
        dropout = self.dropout if self.training else 0.0
        p_l = logits.softmax(2)
        p_v = logits.masked_fill(~mask[:, None, None], float("-inf")).softmax(3)
        return F.dropout(p_l, dropout), F.dropout(p_v, dropout)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)

    def _fold_text(self, l: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
        """Keys (B x (heads L) x image_dim), their bias (B x (heads L)) and values (as keys) on the image's side."""
        k = self._split(self.l_proj(l) * self.head_dim**-0.5)  # B heads L d
        keys = k @ self.v_proj.weight.view(self.heads, self.head_dim, -1)
        key_bias = k @ self.v_proj.bias.view(self.heads, self.head_dim, 1)
        value = self._split(self.values_l_proj(l))
        values = value @ self.out_v_proj.weight.view(-1, self.heads, self.head_dim).permute(1, 2, 0)
        return keys.flatten(1, 2), key_bias.flatten(1), values.flatten(1, 2)

    def _out_v(self, p_v: Tensor, values: Tensor) -> Tensor:
        return p_v @ values + self.out_v_proj.bias

    def _out_l(self, gathered: Tensor, sums: Tensor) -> Tensor:
        """gathered: B x (heads L) x image_dim, text-weighted image rows; sums: B x L x heads."""
        b = len(gathered)
        gathered = gathered.view(b, self.heads, -1, gathered.shape[-1])
        value = gathered @ self.values_v_proj.weight.view(self.heads, self.head_dim, -1).transpose(1, 2)
        value = value + sums.transpose(1, 2)[..., None] * self.values_v_proj.bias.view(self.heads, 1, self.head_dim)
        return self.out_l_proj(value.transpose(1, 2).flatten(2))

    def _attend_chunked(self, v: Tensor, l: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """`attend_folded` of one image without gradients, a block of image rows at a time.

        v: N x image_dim; l: L x text_dim. The logits of all rows (139 MB at 800 x 1344 with 194 tokens) never exist.
        One exponential serves both directions, since each only divides it by other sums. It is taken without finding
        each row's maximum first; where that exceeds the range of float32, `_attend_whole` is used.
        """
        tokens = l[mask]
        keys, key_bias, values = (x[0] for x in self._fold_text(tokens[None]))
        values = values.t().contiguous()
        # Both softmaxes are invariant to a constant per head, so the logits of some rows decide where to put zero; base
        # two because torch's exp2 is the faster function on a CPU.
        sampled = v[:: max(1, len(v) // SAMPLED_ROWS)].float() @ keys.float().t() + key_bias
        sampled = sampled.view(-1, self.heads, len(tokens))
        key_bias = ((key_bias.view(self.heads, -1) - sampled.amax((0, 2))[:, None]) * LOG2E).flatten().to(v.dtype)
        keys = keys * LOG2E
        delta_v = torch.empty_like(v)
        total = torch.zeros(self.heads, len(tokens), device=v.device)
        gathered = torch.zeros(len(keys), v.shape[1], device=v.device)
        for start in range(0, len(v), CHUNK):
            rows = v[start : start + CHUNK]
            e = linear(rows, keys, key_bias).view(len(rows), self.heads, -1).exp2_()
            sums = e.sum(-1, keepdim=True)
            if not (sums.min() > TINY and sums.max() < HUGE):
                return self._attend_whole(v, tokens, mask)
            total += e.sum(0)
            gathered += e.flatten(1).t() @ rows
            e *= sums.reciprocal()
            delta_v[start : start + CHUNK] = linear(e.flatten(1), values, self.out_v_proj.bias)
        if not (total.min() > TINY and total.max() < HUGE):
            return self._attend_whole(v, tokens, mask)
        gathered = (gathered / total.flatten()[:, None]).to(v.dtype)
        ones = gathered.new_ones(1, len(tokens), self.heads)
        return delta_v, _scatter(self._out_l(gathered[None], ones)[0], mask)

    def _attend_whole(self, v: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        delta_v, delta_l = self.attend_folded(v[None], tokens[None], mask[mask][None])
        return delta_v[0], _scatter(delta_l[0], mask)


def _scatter(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows of the real tokens back among the padding, which gets zeros."""
    full = rows.new_zeros(len(mask), rows.shape[1])
    full[mask] = rows
    return full


class Fusion(nn.Module):
    """One fusion block: both sequences are normalised, attend to each other and are added with a learned scale.

    The sum starts from the normalised features and not from the input, as in the official code (docs/spec.md 7.4 (3)).
    layer_scale: initial value of gamma, 1 / number of blocks.
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        embed_dim: int,
        heads: int,
        layer_scale: float,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(image_dim)
        self.layer_norm_l = nn.LayerNorm(text_dim)
        self.attn = BiAttention(image_dim, text_dim, embed_dim, heads, dropout)
        self.gamma_v = nn.Parameter(torch.full((image_dim,), layer_scale))
        self.gamma_l = nn.Parameter(torch.full((text_dim,), layer_scale))

    def forward(self, v: Tensor, l: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """v: B x N x image_dim; l: B x L x text_dim; mask: B x L bool. Returns both, updated."""
        v, l = self.layer_norm_v(v), self.layer_norm_l(l)  # noqa: E741
        delta_v, delta_l = self.attn(v, l, mask)
        return _scaled_sum(v, delta_v, self.gamma_v), _scaled_sum(l, delta_l, self.gamma_l)


def _scaled_sum(x: Tensor, delta: Tensor, gamma: Tensor) -> Tensor:
    """x + gamma * delta in the precision of x."""
    return torch.addcmul(x, delta.to(x.dtype), gamma.to(x.dtype))
