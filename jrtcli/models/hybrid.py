"""HybridLM: the family of HazyResearch's checkpoints (Based, JRT-RNN, Transformer++), which share one format.

A GPT-2 style config.json whose lists say which layers carry which mixer,
`transformer.layers.{i}.{norm1,mixer,norm2,mlp}` as keys, RMSNorm, SwiGLU, no positions but rotary ones in
softmax attention. Dimensions come from the weights where there are any. B batch, T tokens, D model dim, V
vocabulary rows, I inner dim of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from jrtcli.errors import CheckpointError
from jrtcli.models.layers import Block, RMSNorm, SoftmaxAttention, SwiGLU
from jrtcli.models.linear import Linear
from jrtcli.models.planned import PlannedLM
from jrtcli.models.published import Unfilled, load_weights
from jrtcli.models.span import turns
from jrtcli.state import State

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import TokenPlan

Kind = Literal["conv", "linear", "attention"]


@dataclass(frozen=True)
class HybridConfig:
    """What a HybridLM is built from, with the names of config.json.

    kinds: the mixer of each layer. windows: earlier keys that a layer's softmax attention sees, None for all.
    heads: of the softmax attention; linear_heads, feature_dim: of the linear attention. enc_length: tokens of
    JRT-RNN's encoder, None for any number. log_decay: of each head of the linear attention, where the file
    has the table; else decay_const says it. The extras qkv_conv (width, 0 for none) and q_norm are ours;
    published checkpoints have neither.
    """

    n_embd: int
    vocab_rows: int
    kinds: tuple[Kind, ...]
    windows: tuple[int | None, ...]
    n_head: int = 16
    n_inner: int = 0
    layer_norm_epsilon: float = 1e-5
    expand_proj: int = 4
    conv_bias: bool = True
    conv_filter_bias: bool = False
    linear_heads: int = 16
    feature_dim: int = 16
    use_decay_proj: bool = False
    fixed_decay: bool = False
    decay_const: float = -3.0
    log_decay: tuple[float, ...] | None = None
    qkv_conv: int = 0
    q_norm: bool = False
    enc_length: int | None = None
    use_mask: bool = True
    rotary_emb_fraction: float = 0.0
    rotary_emb_base: float = 10000.0
    qkv_proj_bias: bool = False
    out_proj_bias: bool = False
    mlp_fc1_bias: bool = False
    mlp_fc2_bias: bool = False
    attention_scale: float = 1.0
    scale_by_layer: bool = False
    tied: bool = True

    @classmethod
    def from_dict(
        cls, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
    ) -> HybridConfig:
        """Reads config.json; `weights` (renamed by `inner_name`) settle what the file leaves open.

        Raises CheckpointError for a field that is missing or asks for something this family does not have.
        """
        weights = weights or {}
        layers, dim = int(_need(config, "n_layer")), int(_need(config, "n_embd"))
        if not config.get("rms_norm", True):
            raise CheckpointError("rms_norm false: LayerNorm is not supported in this family")
        if config.get("activation_function", "swiglu") != "swiglu":
            raise CheckpointError(
                f"activation_function {config['activation_function']!r}: only swiglu is supported"
            )
        if config.get("n_head_kv") not in (None, config.get("n_head")):
            raise CheckpointError("n_head_kv: grouped key-value heads are not supported in this family")
        conv = config.get("mixer") or {}
        linear = config.get("alt_mixer") or {}
        sliding = config.get("alt_mixer_2") or {}
        in_linear, in_sliding = config.get("alt_mixer_layers") or [], config.get("alt_mixer_2_layers") or []
        kinds: list[Kind] = []
        windows: list[int | None] = []
        for i in range(layers):
            kind, window = ("conv" if conv else "attention"), None
            if i in in_sliding:  # wins where a layer is in both lists
                kind = "attention"
                # 128 where the file does not say, as in the published class.
                size = sliding.get("window_size", 128) if sliding else None
                window = None if size is None or size < 0 else int(size) // 2
            elif i in in_linear:
                kind = "linear" if linear else "attention"
            kinds.append(kind)  # type: ignore[arg-type]
            windows.append(window)
        feature_dim = int(linear.get("feature_dim", 16))
        feature_map = linear.get("feature_map") or {}
        if "linear" in kinds and feature_map.get("input_dim", feature_dim) != feature_dim:
            raise CheckpointError(f"alt_mixer: feature_dim {feature_dim} and feature_map.input_dim differ")
        name = str(linear.get("feature_name", feature_map.get("_target_", "taylor_exp")))
        if "linear" in kinds and "taylor" not in name.lower():
            raise CheckpointError(f"alt_mixer: feature map {name!r} is not the Taylor map")

        def has(suffix: str) -> bool:
            return any(key.endswith(suffix) for key in weights)

        def rows(suffix: str) -> int | None:
            return next((w.shape[0] for key, w in weights.items() if key.endswith(suffix)), None)

        multiple = int(config.get("pad_vocab_size_multiple", 1))
        vocab = -(-int(_need(config, "vocab_size")) // multiple) * multiple
        inner = config.get("n_inner") or int(8 * dim / 3)
        fc1, in_proj = rows("mlp.fc1.weight"), rows("mixer.in_proj.weight")
        filters = next(
            (w.shape[-1] for key, w in weights.items() if key.endswith("mixer.qkv_conv.weight")), None
        )
        head = weights.get("lm_head.weight")
        table = weights.get("embeddings.word_embeddings.weight")
        if weights and table is not None:
            tied = head is None or _same(head, table)  # a head that the file leaves out is the embedding
        else:
            tied = bool(config.get("tie_word_embeddings", True))
        rates = weights.get("decay.decay")
        length = linear.get("enc_length")
        return cls(
            n_embd=dim,
            vocab_rows=rows("word_embeddings.weight") or vocab,
            kinds=tuple(kinds),
            windows=tuple(windows),
            n_head=int(config.get("n_head", 16)),
            n_inner=fc1 // 2 if fc1 else -(-int(inner) // 256) * 256,
            layer_norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
            expand_proj=in_proj // dim if in_proj else int(conv.get("expand_proj", 4)),
            conv_bias=has("mixer.in_proj.bias") if weights else bool(conv.get("use_bias", True)),
            conv_filter_bias=has("mixer.conv.bias"),
            linear_heads=int(linear.get("num_heads", 16)),
            feature_dim=feature_dim,
            use_decay_proj=has("mixer.decay_proj.weight")
            if weights
            else bool(linear.get("use_decay_proj", False)),
            fixed_decay=bool(config.get("fixed_decay", False)),
            decay_const=float(config.get("decay_const", -3)),
            qkv_conv=filters or int(linear.get("qkv_conv", 0)),
            q_norm=has("mixer.q_norm.weight") if weights else bool(linear.get("q_norm", False)),
            log_decay=None if rates is None else tuple(rates.double().flatten().tolist()),
            # Of two the mixer's own counts: the other one was the trainer's.
            enc_length=config.get("enc_length") if length is None else int(length),
            use_mask=bool(linear.get("use_mask", True)),
            rotary_emb_fraction=float(config.get("rotary_emb_fraction", 0.0)),
            rotary_emb_base=float(config.get("rotary_emb_base", 10000.0)),
            qkv_proj_bias=has("mixer.Wqkv.bias") if weights else bool(config.get("qkv_proj_bias", False)),
            out_proj_bias=any("Wqkv" in k for k in weights) and _attention_out_bias(weights),
            mlp_fc1_bias=has("mlp.fc1.bias") if weights else bool(config.get("mlp_fc1_bias", False)),
            mlp_fc2_bias=has("mlp.fc2.bias") if weights else bool(config.get("mlp_fc2_bias", False)),
            attention_scale=1.0
            if config.get("scale_attn_weights", True)
            else (dim // int(config["n_head"])) ** 0.5,
            scale_by_layer=bool(config.get("scale_attn_by_inverse_layer_idx", False)),
            tied=tied,
        )


def _need(config: Mapping[str, Any], field: str) -> Any:
    if config.get(field) is None:
        raise CheckpointError(f"config.json has no {field}")
    return config[field]


def _same(head: Tensor, table: Tensor) -> bool:
    return head.shape == table.shape and torch.equal(head, table)


def _attention_out_bias(weights: Mapping[str, Tensor]) -> bool:
    layers = {key.rsplit(".mixer.", 1)[0] for key in weights if ".mixer.Wqkv.weight" in key}
    return any(f"{layer}.mixer.out_proj.bias" in weights for layer in layers)


def inner_name(key: str) -> str | None:
    """Our name of a published key; None for entries that are no weights.

    Drops the prefixes `model.` and `transformer.`, training metrics and rotary tables; `conv1` is an old
    spelling of `conv`, whose filter is kept in a module of its own.
    """
    if "metrics" in key or key.endswith("rotary_emb.inv_freq"):
        return None
    key = key.removeprefix("model.").removeprefix("transformer.")
    return key.replace("conv1", "conv").replace("mixer.conv.conv.", "mixer.conv.")


class HybridLM(PlannedLM):
    """The backbone; a subclass says what a layer's linear mixer is."""

    Config: ClassVar[type[HybridConfig]] = HybridConfig
    config: HybridConfig

    def __init__(
        self, config: HybridConfig, *, backend: str = "torch", published: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.backend, self.published = config, backend, dict(published or {})
        self.embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(config.vocab_rows, config.n_embd)})
        norm = partial(RMSNorm, config.n_embd, config.layer_norm_epsilon, backend)
        self.layers = nn.ModuleList(
            Block(
                self._mixer(i),
                SwiGLU(
                    config.n_embd,
                    config.n_inner,
                    backend,
                    bias1=config.mlp_fc1_bias,
                    bias2=config.mlp_fc2_bias,
                ),
                norm,
                backend,
            )
            for i in range(len(config.kinds))
        )
        self.ln_f = norm()
        self.lm_head = None if config.tied else Linear(config.n_embd, config.vocab_rows, bias=False)
        nn.init.normal_(self.embeddings["word_embeddings"].weight, std=0.02)  # type: ignore[arg-type]

    def _mixer(self, i: int) -> nn.Module:
        kind = self.config.kinds[i]
        if kind == "attention":
            c = self.config
            return SoftmaxAttention(
                c.n_embd,
                c.n_head,
                window=c.windows[i],
                rotary_fraction=c.rotary_emb_fraction,
                rotary_base=c.rotary_emb_base,
                scale=c.attention_scale / (i + 1 if c.scale_by_layer else 1),
                backend=self.backend,
                qkv_bias=c.qkv_proj_bias,
                out_bias=c.out_proj_bias,
            )
        raise CheckpointError(f"layer {i} of this {self.architecture} checkpoint has no softmax attention")

    def embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embeddings["word_embeddings"](tokens)
        return x if x.dtype == torch.float64 else x.float()

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits(self.ln_f(hidden))

    @property
    def unembedding(self) -> Tensor:
        table: Tensor = self.embeddings["word_embeddings"].weight  # type: ignore[assignment]
        return table if self.lm_head is None else self.lm_head.weight

    def token_plan(self) -> TokenPlan:
        from jrt_kernels.jit.plan import Plan

        plan = Plan(self.config.n_embd, self.config.layer_norm_epsilon)
        for i, block in enumerate(self.layers):
            one: Any = block
            plan.join(one.mixer.plan(plan, plan.norm(one.norm1.weight), i))
            plan.join(one.mlp.plan(plan, plan.norm(one.norm2.weight)))
        return plan.finished(self.ln_f.weight, self.head_matrix)

    def plannable(self) -> bool:
        c = self.config
        windows = [w for kind, w in zip(c.kinds, c.windows, strict=True) if kind == "attention"]
        mixers: Any = [block.mixer for block in self.layers]
        return (
            None not in windows  # the state of full attention grows
            and not (windows and c.n_embd // c.n_head % 16)
            and not (c.n_inner % 16 or c.expand_proj * c.n_embd // 2 % 16)
            and all(mixer.plannable for mixer, kind in zip(mixers, c.kinds, strict=True) if kind == "linear")
            and super().plannable()
        )

    def given(self, state: State) -> dict[str, Tensor]:
        """How positions turn keys, and how many keys each window has."""
        given = {}
        for i, (block, layer) in enumerate(zip(self.layers, state.layers, strict=True)):
            mixer: Any = block.mixer
            if "length" in layer:
                given[f"length{i}"] = layer["length"].contiguous()
                if "turn" not in given:
                    given["turn"] = torch.cat(
                        turns(state.length, mixer.rotary_dims, mixer.rotary_base), dim=-1
                    )
        return given

    def finish(self, layers: list[dict[str, Tensor]], state: State) -> None:
        for new, old, window in zip(layers, state.layers, self.config.windows, strict=True):
            if "length" in old:
                new["length"] = (old["length"] + 1).clamp(max=window)

    @classmethod
    def from_checkpoint(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        backend: str = "torch",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        named = {name: w for key, w in weights.items() if (name := inner_name(key)) is not None}
        settings = cls.Config.from_dict(config, named)
        named.pop("decay.decay", None)  # in the settings
        if settings.tied:
            named.pop("lm_head.weight", None)
        with torch.device("meta"), Unfilled():
            model = cls(settings, backend=backend, published=config)
        load_weights(model, named, dtype, device)
        return model.eval()

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        weights = {}
        for name, w in self.own_weights().items():
            key = name.replace(".mixer.conv.", ".mixer.conv.conv.")
            weights[key if name.startswith("lm_head.") else f"transformer.{key}"] = w.detach().clone()
        if self.config.log_decay is not None:
            weights["transformer.decay.decay"] = torch.tensor(self.config.log_decay)
        return dict(self.published), weights
