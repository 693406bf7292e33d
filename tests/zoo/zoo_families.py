"""Families of `transformers` 4.x that exist in torch and Flax, with tiny random configurations.

Each row names the classes, the configuration and what the model is called with. `transformers` is imported when the
first family is built, so that collecting tests costs nothing.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import numpy as np
import torch
from zoo_pairs import Linen, Pair, random_tree

VOCAB, LENGTH = 45, 6
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 20,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": VOCAB, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 28, "max_position_embeddings": 20,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
IMAGE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
T5 = {
    "vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0,
    "decoder_start_token_id": 0,
}  # fmt: skip
LLAMA = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 0}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of `transformers`.

    Attributes:
        name: of the row. classes: torch's name; Flax's is the same with `Flax` before it.
        config: its class. options: of the configuration. inputs: what the model is called with.
        composed: makes the configuration of a model that is put together from two.
        shape: of the inputs to trace the Flax model with, where its own default is too long.
        unused: what torch's model has and no output of it needs, and Flax's has not: left out, and kept on the way back.
    """

    name: str
    classes: str
    config: str
    options: Mapping[str, Any]
    inputs: Callable[[], dict[str, np.ndarray]]
    composed: Callable[[Any], Any] | None = None
    shape: Any = None
    unused: str = ""


# -------------------------------------------------------------------- inputs


def _ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, (2, LENGTH)).astype(np.int32)


def text() -> dict[str, np.ndarray]:
    return {"input_ids": _ids(), "attention_mask": np.ones((2, LENGTH), np.int32)}


def typed_text() -> dict[str, np.ndarray]:
    """Torch and Flax take other types of tokens for granted in ELECTRA."""
    return {**text(), "token_type_ids": np.zeros((2, LENGTH), np.int32)}


def both() -> dict[str, np.ndarray]:
    return {**text(), "decoder_input_ids": _ids(2), "decoder_attention_mask": np.ones((2, LENGTH), np.int32)}


def _pixels(size: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 3, size, size)).astype(np.float32)


def pixels() -> dict[str, np.ndarray]:
    return {"pixel_values": _pixels()}


def large_pixels() -> dict[str, np.ndarray]:
    return {"pixel_values": _pixels(32)}


def pixels_and_text() -> dict[str, np.ndarray]:
    return {**text(), **pixels()}


def pixels_to_text() -> dict[str, np.ndarray]:
    return {**pixels(), "decoder_input_ids": _ids(2), "decoder_attention_mask": np.ones((2, LENGTH), np.int32)}


def wave() -> dict[str, np.ndarray]:
    return {"input_values": np.random.default_rng(1).normal(size=(2, 400)).astype(np.float32)}


def wave_to_text() -> dict[str, np.ndarray]:
    return {
        "inputs": wave()["input_values"],
        "decoder_input_ids": _ids(2),
        "decoder_attention_mask": np.ones((2, LENGTH), np.int32),
    }


def mel_to_text() -> dict[str, np.ndarray]:
    mel = np.random.default_rng(1).normal(size=(2, 8, 20)).astype(np.float32)
    return {"input_features": mel, "decoder_input_ids": _ids(2)}


# -------------------------------------------------------------------- families

WAV2VEC2 = {
    "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": (8, 12), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "do_stable_layer_norm": True,
    "feat_extract_norm": "layer", "conv_bias": True, "mask_time_prob": 0.05, "apply_spec_augment": True,
}  # fmt: skip
WHISPER = {
    **{name: value for name, value in SEQ2SEQ.items() if name != "max_position_embeddings"}, "num_mel_bins": 8,
    "max_source_positions": 10, "max_target_positions": 20, "suppress_tokens": None, "begin_suppress_tokens": None,
    "vocab_size": VOCAB,
}  # fmt: skip


def _clip(hub: Any) -> Any:
    words = {**TEXT, "eos_token_id": VOCAB - 1, "bos_token_id": 0, "pad_token_id": 1}
    return hub.CLIPConfig(text_config=words, vision_config=dict(IMAGE), projection_dim=3)


def _encoder_decoder(hub: Any) -> Any:
    return hub.EncoderDecoderConfig.from_encoder_decoder_configs(hub.BertConfig(**TEXT), hub.GPT2Config(**GPT2))


def _vision_encoder_decoder(hub: Any) -> Any:
    return hub.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hub.ViTConfig(**IMAGE), hub.GPT2Config(**GPT2))


def _speech_encoder_decoder(hub: Any) -> Any:
    words = hub.BartConfig(**SEQ2SEQ)
    return hub.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(hub.Wav2Vec2Config(**WAV2VEC2), words)


def _dual_encoder(hub: Any) -> Any:
    parts = hub.ViTConfig(**IMAGE), hub.BertConfig(**TEXT)
    return hub.VisionTextDualEncoderConfig.from_vision_text_configs(*parts, projection_dim=3)


GPT2 = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "n_inner": 24}
RESNET = {"num_channels": 3, "embedding_size": 6, "hidden_sizes": [8, 12], "depths": [2, 2], "num_labels": 5}

FAMILIES = (
    Family("albert", "AlbertForMaskedLM", "AlbertConfig", {**TEXT, "embedding_size": 12}, text),
    Family("bart", "BartForConditionalGeneration", "BartConfig", SEQ2SEQ, both),
    Family(
        "beit", "BeitForImageClassification", "BeitConfig", {**IMAGE, "use_relative_position_bias": True,
        "use_absolute_position_embeddings": True, "num_labels": 5}, pixels
    ),
    Family("bert", "BertForMaskedLM", "BertConfig", TEXT, text),
    Family("bert-classifier", "BertForSequenceClassification", "BertConfig", {**TEXT, "num_labels": 5}, text),
    Family(
        "big_bird", "BigBirdForMaskedLM", "BigBirdConfig", {**TEXT, "attention_type": "original_full"}, text,
        unused="the pooler"
    ),
    Family("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig", SEQ2SEQ, both),
    Family("blenderbot_small", "BlenderbotSmallForConditionalGeneration", "BlenderbotSmallConfig", SEQ2SEQ, both),
    Family(
        "bloom", "BloomForCausalLM", "BloomConfig", {"vocab_size": VOCAB, "hidden_size": 16, "n_layer": 2,
        "n_head": 2}, text
    ),
    Family("clip", "CLIPModel", "CLIPConfig", {}, pixels_and_text, _clip),
    Family("dinov2", "Dinov2ForImageClassification", "Dinov2Config", {**IMAGE, "num_labels": 5}, pixels),
    Family(
        "distilbert", "DistilBertForMaskedLM", "DistilBertConfig", {"vocab_size": VOCAB, "dim": 16,
        "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 20}, text
    ),
    Family("electra", "ElectraForMaskedLM", "ElectraConfig", {**TEXT, "embedding_size": 12}, typed_text),
    Family("encoder-decoder", "EncoderDecoderModel", "EncoderDecoderConfig", {}, both, _encoder_decoder),
    Family("gemma", "GemmaForCausalLM", "GemmaConfig", {**LLAMA, "head_dim": 8}, text),
    Family("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT2, text),
    Family(
        "gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig", {"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2,
        "num_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20, "attention_types": [[["global",
        "local"], 1]], "window_size": 3}, text
    ),
    Family(
        "gptj", "GPTJForCausalLM", "GPTJConfig", {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "n_positions": 20, "n_inner": 24, "rotary_dim": 4, "tie_word_embeddings": False}, text
    ),
    Family("llama", "LlamaForCausalLM", "LlamaConfig", LLAMA, text),
    Family("longt5", "LongT5ForConditionalGeneration", "LongT5Config", {**T5, "local_radius": 3}, both),
    Family("marian", "MarianMTModel", "MarianConfig", SEQ2SEQ, both, unused="tables of sines"),
    Family("mbart", "MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ, both),
    Family("mistral", "MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 16}, text),
    Family("mt5", "MT5ForConditionalGeneration", "MT5Config", T5, both),
    Family(
        "opt", "OPTForCausalLM", "OPTConfig", {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 20, "word_embed_proj_dim": 12,
        "pad_token_id": 1}, text
    ),
    Family("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", SEQ2SEQ, both, unused="tables of sines"),
    Family("regnet", "RegNetForImageClassification", "RegNetConfig", {**RESNET, "groups_width": 4}, large_pixels),
    Family("resnet", "ResNetForImageClassification", "ResNetConfig", RESNET, large_pixels),
    Family("roberta", "RobertaForMaskedLM", "RobertaConfig", {**TEXT, "pad_token_id": 1}, text),
    Family(
        "roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", "RobertaPreLayerNormConfig", {**TEXT,
        "pad_token_id": 1}, text
    ),
    Family("roformer", "RoFormerForMaskedLM", "RoFormerConfig", TEXT, text, unused="a table of sines"),
    Family(
        "speech-encoder-decoder", "SpeechEncoderDecoderModel", "SpeechEncoderDecoderConfig", {}, wave_to_text,
        _speech_encoder_decoder, shape=((2, 400), (2, 6))
    ),
    Family("t5", "T5ForConditionalGeneration", "T5Config", T5, both),
    Family(
        "t5-gated", "T5ForConditionalGeneration", "T5Config", {**T5, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False}, both
    ),
    Family(
        "vision-encoder-decoder", "VisionEncoderDecoderModel", "VisionEncoderDecoderConfig", {}, pixels_to_text,
        _vision_encoder_decoder
    ),
    Family(
        "vision-text-dual-encoder", "VisionTextDualEncoderModel", "VisionTextDualEncoderConfig", {},
        pixels_and_text, _dual_encoder
    ),
    Family("vit", "ViTForImageClassification", "ViTConfig", {**IMAGE, "num_labels": 5}, pixels),
    Family("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", WAV2VEC2, wave),
    Family("whisper", "WhisperForConditionalGeneration", "WhisperConfig", WHISPER, mel_to_text),
    Family(
        "xglm", "XGLMForCausalLM", "XGLMConfig", {"vocab_size": VOCAB, "d_model": 16, "ffn_dim": 24,
        "num_layers": 2, "attention_heads": 2, "max_position_embeddings": 20}, text
    ),
    Family(
        "xlm_roberta", "XLMRobertaForTokenClassification", "XLMRobertaConfig", {**TEXT, "pad_token_id": 1,
        "num_labels": 5}, text
    ),
)  # fmt: skip


# -------------------------------------------------------------------- building


@cache
def _hub() -> Any:
    """`transformers`, with its advice to leave Flax kept quiet."""
    import transformers

    transformers.logging.set_verbosity_error()
    for name in ("t5", "longt5"):
        module = importlib.import_module(f"transformers.models.{name}.modeling_flax_{name}")
        module.jnp = _Clipping("jax.numpy")
    return transformers


def _config(family: Family) -> Any:
    hub = _hub()
    config = family.composed(hub) if family.composed else getattr(hub, family.config)(**family.options)
    for one in (config, getattr(config, "decoder", None)):
        if one is not None:
            one.use_cache = False
    config._attn_implementation = "eager"
    return config


def _flax_class(family: Family) -> type:
    """The Flax class, which starts from an empty shell of values: initialisers of large trees take long to compile."""
    hub = _hub()
    cls = getattr(hub, f"Flax{family.classes}")

    def shell(self: Any, rng: Any, input_shape: Any, params: Any = None) -> Any:
        return random_tree(jax.eval_shape(lambda key: cls.init_weights(self, key, input_shape, params), rng), 0)

    return type(cls.__name__, (cls,), {"init_weights": shell, "__module__": cls.__module__})


class _Clipping(types.ModuleType):
    """`jax.numpy` as T5's code knows it: `clip` took `a_max` before JAX 0.5."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jax.numpy, name)

    def clip(self, values: Any, a_max: Any) -> Any:
        return jax.numpy.clip(values, max=a_max)


class _Seen(Exception):  # a way out, no error
    """Carries what a module was applied to."""


class _Recorder:
    """Stands in for the module of a Flax model, to see what it is applied to."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        raise _Seen(args, {name: value for name, value in kwargs.items() if name not in ("rngs", "mutable", "method")})


class HubLinen(Linen):
    """The Linen module inside a Flax model of `transformers`, with what the model calls it with."""

    def __init__(self, family: Family) -> None:
        model = _flax_class(family)(_config(family), **({"input_shape": family.shape} if family.shape else {}))
        module, params = model._module, model.params
        model._module = _Recorder(module)
        self.inputs = family.inputs()
        try:
            model(**self.inputs, params=params)
        except _Seen as seen:
            args, kwargs = seen.args
        super().__init__(module, args, kwargs)
        self._params, self.hub = params, model

    @cached_property
    def shapes(self) -> Any:
        params = self._params
        return params if "params" in params else {"params": params}


def _run(model: torch.nn.Module, side: HubLinen) -> Any:
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in side.inputs.items()}
    given = {name: value if value.is_floating_point() else value.long() for name, value in given.items()}
    return model(**given)


def _pair(family: Family) -> Pair:
    return Pair(
        family.name,
        lambda: getattr(_hub(), family.classes)(_config(family)),
        lambda: HubLinen(family),
        _run,
        allow={"always": ("unexpected", "missing")} if family.unused else {},
        why=family.unused,
    )


PAIRS = tuple(map(_pair, FAMILIES))
