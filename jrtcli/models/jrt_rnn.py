"""JRT-RNN: Based with prefix linear attention (the paper's section 4).

The linear attention layers carry a second pair of projections for the encoder region, the first tokens of the
prompt; every position, those inside the region included, sees the whole region through them. Once the region
is read the model is a Based hybrid with the same state. Formats and semantics:
HazyResearch/prefix-linear-attention. B batch, T tokens, E encoder tokens, D model dim, H heads, K feature
dimension, P value dim.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from jrt_kernels.registry import resolve
from jrtcli.errors import NotResumable
from jrtcli.models.based import Based, Filters, LinearAttention
from jrtcli.models.hybrid import HybridConfig
from jrtcli.models.linear import Linear
from jrtcli.models.span import LayerState, Span


class PrefixLinearAttention(LinearAttention):
    """Taylor linear attention with encoder keys and values, its own projections, over the encoder region."""

    def __init__(self, config: HybridConfig, backend: str) -> None:
        super().__init__(config, backend)
        dim, keys = config.n_embd, self.sizes[0]
        self.proj_k_enc = Linear(dim, keys, bias=False)
        self.proj_v_enc = Linear(dim, dim, bias=False)
        self.enc_conv = Filters(keys + dim, config.qkv_conv, bias=False) if config.qkv_conv else None
        self.attend_prefix = resolve("prefix_linear_attention", backend)

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        if span.encoder_lengths is None:
            return super().forward(x, state, span)
        q, k, v, new = self._qkv(x, state, span)
        # Rows of equal length need the projections of the longest encoder only.
        region = x if span.cu_seqlens is not None else x[:, : int(span.encoder_lengths.max())]
        k_enc, v_enc = self.proj_k_enc(region), self.proj_v_enc(region)
        if self.enc_conv is not None:
            mixed, _ = self.short_conv(
                torch.cat([k_enc, v_enc], dim=-1), self.enc_conv.weight[:, 0], cu_seqlens=span.cu_seqlens
            )
            k_enc, v_enc = mixed.split(self.sizes[1:], dim=-1)
        k_enc, v_enc = (y.unflatten(-1, (self.heads, -1)) for y in (k_enc, v_enc))
        if span.pad_mask is not None:
            # As published: keys of padding are zeroed before the feature map, so each keeps the weight 1.
            mask = span.pad_mask[..., None, None]
            k, k_enc = k * mask.to(k.dtype), k_enc * mask[:, : k_enc.shape[1]].to(k_enc.dtype)
        o, (kv, ksum) = self.attend_prefix(
            q,
            k,
            v,
            k_enc,
            v_enc,
            encoder_lengths=span.encoder_lengths,
            initial_state=(state["kv"], state["ksum"]),
            cu_seqlens=span.cu_seqlens,
        )
        return self.out_proj(o.flatten(-2)), {"kv": kv, "ksum": ksum, **new}


def encoder_span(
    limit: int | None, lengths: Tensor, start: Tensor, asked: int | Tensor | None
) -> Tensor | None:
    """JRT-RNN's rule: (N,) tokens its encoder covers, or None where it covers nothing.

    limit: the trained encoder length, None for any. Without a wish, rows that start here (start == 0) have
    their first min(limit, length) tokens in the encoder, rows that go on none. Raises NotResumable where
    `asked` tokens are not all here.
    """
    if asked is None:
        covered = lengths if limit is None else lengths.clamp(max=limit)
        covered = torch.where(start == 0, covered, 0)
    else:
        covered = torch.as_tensor(asked, device=lengths.device).expand_as(lengths)
        if bool(((covered > start) & (start > 0)).any()):
            raise NotResumable(
                "the encoder of JRT-RNN reads its region in one piece: it cannot go on from a state inside it"
            )
        if bool(((covered > lengths) & (start == 0)).any()):
            raise NotResumable(
                "the encoder of JRT-RNN reads its region in one piece: "
                f"{int(covered.max())} tokens asked for, {int(lengths.min())} given"
            )
        covered = torch.where(start == 0, covered, 0)
    return covered if bool((covered > 0).any()) else None


class JRTRNN(Based):
    """JRT-RNN. `config.enc_length` is the trained encoder length, None for a model trained with any.

    Left padding with `mask` stays in the sequence, as published, and only while it is no longer than the
    encoder.
    """

    architecture = "jrt_rnn"
    main_op = "prefix_linear_attention"
    other_ops = ("taylor_linear_attention", *Based.other_ops)
    has_encoder: ClassVar[bool] = True
    keeps_padding: ClassVar[bool] = True
    resumable: ClassVar[bool] = False

    def _mixer(self, i: int) -> nn.Module:
        linear = self.config.kinds[i] == "linear"
        return PrefixLinearAttention(self.config, self.backend) if linear else super()._mixer(i)

    def _encoder_lengths(
        self, lengths: Tensor, start: Tensor, encoder_length: int | Tensor | None
    ) -> Tensor | None:
        return encoder_span(self.config.enc_length, lengths, start, encoder_length)

    def _pad_mask(self, mask: Tensor | None, tokens: int, encoder: Tensor | None) -> Tensor | None:
        if mask is None or encoder is None or not self.config.use_mask:
            return None
        if not 1 < tokens <= int(encoder.min()):
            return None  # longer than the encoder, or a single token: the published code ignores it
        self._check_left_padding(mask.bool())
        return mask
