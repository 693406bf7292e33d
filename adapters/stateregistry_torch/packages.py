"""Packages: layer types of well-known packages, by qualified name, with what a module of each is.

They are declared as any user declares a type, and none of these packages is imported or has to be installed. A norm that
computes something else of its weight (`1 + weight`, as those of Gemma do) is none of these. Imports the core, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from stateregistry.layers.vocabulary import Config, Layer, Piece

_MODELS: Final = "transformers.models"


def _conv1d(_: Any) -> Layer:
    """A linear layer that stores its kernel the other way round; GPT-2 is made of it."""
    return Layer("linear", "", (Piece("kernel", "weight", "in out"), Piece("bias", "bias", "out")))


def _rms_norm(module: Any) -> Layer:
    """`weight * x / sqrt(mean(x * x) + eps)` over the last axis."""
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    config: Config = {"eps": float(eps), "normalized_axes": 1}
    return Layer("rms_norm", "", (Piece("scale", "weight", "*features"),), config=config)


def _layer_norm(module: Any) -> Layer:
    """A LayerNorm over the features, wherever the data has them."""
    pieces = Piece("scale", "weight", "*features"), Piece("bias", "bias", "*features")
    return Layer("layer_norm", "", pieces, config={"eps": float(module.eps), "normalized_axes": 1})


def _embedding(module: Any) -> Layer:
    """A table, the rows of which may be scaled when they are looked up, or looked up by position."""
    config: dict[str, Any] = {"mode": "none", "padding_idx": module.padding_idx}
    scale = float(getattr(module, "embed_scale", 1.0))
    if scale != 1.0:
        config["embed_scale"] = scale
    return Layer("embedding", "", (Piece("embedding", "weight", "vocab features"),), config=config)


def _named(build: Callable[[Any], Layer], text: str) -> Iterable[tuple[str, Callable[[Any], Layer]]]:
    """Types of `transformers`, written as `family.Type`, with their builder."""
    for word in text.split():
        family, _, name = word.partition(".")
        yield f"{_MODELS}.{family}.modeling_{family}.{name}", build


_RMS_NORMS: Final = """
aimv2.Aimv2RMSNorm apertus.ApertusRMSNorm arcee.ArceeRMSNorm aria.AriaTextRMSNorm bamba.BambaRMSNorm blt.BltRMSNorm
chameleon.ChameleonRMSNorm csm.CsmRMSNorm deepseek_v2.DeepseekV2RMSNorm deepseek_v3.DeepseekV3RMSNorm dia.DiaRMSNorm
diffllama.DiffLlamaRMSNorm doge.DogeRMSNorm dots1.Dots1RMSNorm emu3.Emu3RMSNorm ernie4_5.Ernie4_5RMSNorm
ernie4_5_moe.Ernie4_5_MoeRMSNorm exaone4.Exaone4RMSNorm falcon_h1.FalconH1RMSNorm flex_olmo.FlexOlmoRMSNorm glm.GlmRMSNorm
glm4.Glm4RMSNorm glm4_moe.Glm4MoeRMSNorm glm4v.Glm4vRMSNorm gpt_neox.GPTNeoXRMSNorm gpt_oss.GptOssRMSNorm
granite.GraniteRMSNorm granitemoe.GraniteMoeRMSNorm granitemoehybrid.GraniteMoeHybridRMSNorm helium.HeliumRMSNorm
idefics.IdeficsRMSNorm idefics2.Idefics2RMSNorm idefics3.Idefics3RMSNorm jamba.JambaRMSNorm jetmoe.JetMoeRMSNorm
lfm2.Lfm2RMSNorm llama.LlamaRMSNorm llama4.Llama4TextRMSNorm longt5.LongT5LayerNorm mamba.MambaRMSNorm
mamba2.Mamba2RMSNorm minimax.MiniMaxRMSNorm mistral.MistralRMSNorm mixtral.MixtralRMSNorm mllama.MllamaTextRMSNorm
moshi.MoshiRMSNorm mt5.MT5LayerNorm olmo2.Olmo2RMSNorm olmo3.Olmo3RMSNorm phi3.Phi3RMSNorm pixtral.PixtralRMSNorm
qwen2.Qwen2RMSNorm qwen2_moe.Qwen2MoeRMSNorm qwen3.Qwen3RMSNorm qwen3_moe.Qwen3MoeRMSNorm qwen3_vl.Qwen3VLTextRMSNorm
seed_oss.SeedOssRMSNorm smollm3.SmolLM3RMSNorm smolvlm.SmolVLMRMSNorm t5.T5LayerNorm umt5.UMT5LayerNorm
zamba2.Zamba2RMSNorm
"""

_TABLES: Final = """
bart.BartLearnedPositionalEmbedding bart.BartScaledWordEmbedding biogpt.BioGptLearnedPositionalEmbedding
biogpt.BioGptScaledWordEmbedding bigbird_pegasus.BigBirdPegasusLearnedPositionalEmbedding
bigbird_pegasus.BigBirdPegasusScaledWordEmbedding blenderbot.BlenderbotLearnedPositionalEmbedding
blenderbot.BlenderbotScaledWordEmbedding blenderbot_small.BlenderbotSmallLearnedPositionalEmbedding
led.LEDLearnedPositionalEmbedding m2m_100.M2M100ScaledWordEmbedding mbart.MBartLearnedPositionalEmbedding
mbart.MBartScaledWordEmbedding mvp.MvpLearnedPositionalEmbedding nllb_moe.NllbMoeScaledWordEmbedding
opt.OPTLearnedPositionalEmbedding pegasus_x.PegasusXScaledWordEmbedding plbart.PLBartLearnedPositionalEmbedding
plbart.PLBartScaledWordEmbedding trocr.TrOCRLearnedPositionalEmbedding trocr.TrOCRScaledWordEmbedding
whisper.WhisperPositionalEmbedding xglm.XGLMScaledWordEmbedding
"""

#: What a module of a type is, by the qualified name of the type.
LAYERS: Final[Mapping[str, Callable[[Any], Layer]]] = MappingProxyType(
    {
        "transformers.pytorch_utils.Conv1D": _conv1d,
        **dict(_named(_rms_norm, _RMS_NORMS)),
        **dict(_named(_embedding, _TABLES)),
        f"{_MODELS}.convnext.modeling_convnext.ConvNextLayerNorm": _layer_norm,
        f"{_MODELS}.convnextv2.modeling_convnextv2.ConvNextV2LayerNorm": _layer_norm,
        "torchvision.models.convnext.LayerNorm2d": _layer_norm,
        "timm.layers.norm.LayerNorm2d": _layer_norm,
    }
)

#: Types whose parameters are parameters of their own.
BARE: Final = (
    "timm.layers.layer_scale.LayerScale",
    "timm.layers.layer_scale.LayerScale2d",
    f"{_MODELS}.dinov2.modeling_dinov2.Dinov2LayerScale",
    f"{_MODELS}.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersLayerScale",
    f"{_MODELS}.dinov3_vit.modeling_dinov3_vit.DINOv3ViTLayerScale",
)
