"""Fresh pairs that make images: gated convolutions, codebooks in buffers, instance norms.

Torch as rosinality and the PyTorch examples write them, Flax as `nn.compact` and NNX do. Widths are equal on purpose wherever
the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import channels_last, image, on_image
from zoo_fresh_tables import digits
from zoo_pairs import Linen, Nnx, Pair
from zoo_transformers import on_args

# -------------------------------------------------------------------- gated PixelCNN, anordertoreclaim and others


class GatedMaskedConv2d(tnn.Module):
    def __init__(self, dim: int, kernel: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.class_cond_embedding = tnn.Embedding(10, 2 * dim)
        self.vert_stack = tnn.Conv2d(dim, dim * 2, (kernel // 2 + 1, kernel), 1, (kernel // 2, kernel // 2))
        self.vert_to_horiz = tnn.Conv2d(2 * dim, 2 * dim, 1)
        self.horiz_stack = tnn.Conv2d(dim, dim * 2, (1, kernel // 2 + 1), 1, (0, kernel // 2))
        self.horiz_resid = tnn.Conv2d(dim, dim, 1)

    @staticmethod
    def gate(x: Any) -> Any:
        one, two = x.chunk(2, dim=1)
        return torch.tanh(one) * torch.sigmoid(two)

    def forward(self, vertical: Any, horizontal: Any, label: Any) -> Any:
        embedded = self.class_cond_embedding(label)[:, :, None, None]
        tall = self.vert_stack(vertical)[:, :, : vertical.shape[-2], :]
        wide = self.horiz_stack(horizontal)[:, :, :, : horizontal.shape[-1]]
        out = self.horiz_resid(self.gate(self.vert_to_horiz(tall) + wide + embedded))
        return self.gate(tall + embedded), out + horizontal if self.residual else out


class GatedPixelCNN(tnn.Module):
    def __init__(self, levels: int = 7, dim: int = 8) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(levels, dim)
        self.layers = tnn.ModuleList([GatedMaskedConv2d(dim, 7 if i == 0 else 3, i > 0) for i in range(3)])
        self.output_conv = tnn.Sequential(tnn.Conv2d(dim, 16, 1), tnn.ReLU(True), tnn.Conv2d(16, levels, 1))

    def forward(self, x: Any, label: Any) -> Any:
        x = self.embedding(x).permute(0, 3, 1, 2)
        tall = wide = x
        for layer in self.layers:
            tall, wide = layer(tall, wide, label)
        return channels_last(self.output_conv(wide))


class LinenGatedLayer(nn.Module):
    features: int
    kernel: int
    residual: bool

    @nn.compact
    def __call__(self, tall: Any, wide: Any, label: Any) -> Any:
        half = self.kernel // 2
        cond = nn.Embed(10, 2 * self.features)(label)[:, None, None]
        down = nn.Conv(
            2 * self.features, (half + 1, self.kernel), padding=((half, half), (half, half)), name="vertical"
        )(tall)
        down = down[:, : tall.shape[1]]
        across = nn.Conv(2 * self.features, (1, half + 1), padding=((0, 0), (half, half)), name="horizontal")(wide)
        across = across[:, :, : wide.shape[2]]

        def gate(x: Any) -> Any:
            one, two = jnp.split(x, 2, -1)
            return nn.tanh(one) * nn.sigmoid(two)

        out = gate(nn.Dense(2 * self.features, name="link")(down) + across + cond)
        out = nn.Dense(self.features, name="residual_proj")(out)
        return gate(down + cond), out + wide if self.residual else out


class LinenPixelCNN(nn.Module):
    @nn.compact
    def __call__(self, x: Any, label: Any) -> Any:
        tall = wide = nn.Embed(7, 8, name="pixel_embed")(x)
        for number in range(3):
            tall, wide = LinenGatedLayer(8, 7 if number == 0 else 3, number > 0, name=f"gated_{number}")(
                tall, wide, label
            )
        return nn.Dense(7, name="logits")(nn.relu(nn.Dense(16, name="pre_logits")(wide)))


# -------------------------------------------------------------------- VQ-VAE, rosinality/vq-vae-2-pytorch


class Quantize(tnn.Module):
    def __init__(self, dim: int, n_embed: int) -> None:
        super().__init__()
        embed = torch.randn(dim, n_embed)
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.rand(n_embed) + 1.0)
        self.register_buffer("embed_avg", embed.clone() * 2.0)

    def forward(self, x: Any) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        away = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.embed + self.embed.pow(2).sum(0, keepdim=True)
        return functional.embedding(away.argmin(1).view(x.shape[:-1]), self.embed.transpose(0, 1))


class VqResBlock(tnn.Module):
    def __init__(self, in_channel: int, channel: int) -> None:
        super().__init__()
        self.conv = tnn.Sequential(
            tnn.ReLU(),
            tnn.Conv2d(in_channel, channel, 3, padding=1),
            tnn.ReLU(inplace=True),
            tnn.Conv2d(channel, in_channel, 1),
        )

    def forward(self, x: Any) -> Any:
        return self.conv(x) + x


class VQVAE(tnn.Module):
    def __init__(self, width: int = 12, codes: int = 12) -> None:
        super().__init__()
        self.enc = tnn.Module()
        self.enc.blocks = tnn.Sequential(
            tnn.Conv2d(3, width // 2, 4, 2, 1), tnn.ReLU(), tnn.Conv2d(width // 2, width, 3, padding=1),
            VqResBlock(width, 8), VqResBlock(width, 8), tnn.ReLU(),
        )  # fmt: skip
        self.quantize_conv = tnn.Conv2d(width, width, 1)
        self.quantize = Quantize(width, codes)
        self.dec = tnn.Module()
        self.dec.blocks = tnn.Sequential(
            tnn.Conv2d(width, width, 3, padding=1), VqResBlock(width, 8), VqResBlock(width, 8), tnn.ReLU(),
            tnn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        quant = self.quantize(self.quantize_conv(self.enc.blocks(x)).permute(0, 2, 3, 1))
        return channels_last(self.dec.blocks(quant.permute(0, 3, 1, 2))) + self.quantize.cluster_size.mean()


class NnxResidual(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.wide = nnx.Conv(width, 8, (3, 3), rngs=rngs)
        self.narrow = nnx.Conv(8, width, (1, 1), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.narrow(nnx.relu(self.wide(nnx.relu(x))))


class NnxCodebook(nnx.Module):
    def __init__(self, dim: int, codes: int) -> None:
        self.embeddings = nnx.BatchStat(jnp.zeros((dim, codes)))
        self.ema_cluster_size = nnx.BatchStat(jnp.ones((codes,)))
        self.ema_embeddings = nnx.BatchStat(jnp.zeros((dim, codes)))

    def __call__(self, x: Any) -> Any:
        away = -2 * x @ self.embeddings[...] + (self.embeddings[...] ** 2).sum(0)
        return self.embeddings[...].T[away.argmin(-1)]


class NnxVqVae(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        width = 12
        self.codebook = NnxCodebook(width, 12)
        self.decoder_in = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.decoder_res = nnx.List([NnxResidual(width, rngs=rngs) for _ in range(2)])
        self.decoder_up = nnx.ConvTranspose(
            width, 3, (4, 4), 2, padding=((2, 2), (2, 2)), transpose_kernel=True, rngs=rngs
        )
        self.encoder_down = nnx.Conv(3, width // 2, (4, 4), 2, padding=1, rngs=rngs)
        self.encoder_in = nnx.Conv(width // 2, width, (3, 3), rngs=rngs)
        self.encoder_res = nnx.List([NnxResidual(width, rngs=rngs) for _ in range(2)])
        self.pre_vq = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.encoder_in(nnx.relu(self.encoder_down(x)))
        for block in self.encoder_res:
            x = block(x)
        x = self.decoder_in(self.codebook(self.pre_vq(nnx.relu(x))))
        for block in self.decoder_res:
            x = block(x)
        return self.decoder_up(nnx.relu(x)) + self.codebook.ema_cluster_size[...].mean()


# -------------------------------------------------------------------- style transfer, pytorch/examples


class ConvLayer(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.reflection_pad = tnn.ReflectionPad2d(kernel_size // 2)
        self.conv2d = tnn.Conv2d(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Any) -> Any:
        return self.conv2d(self.reflection_pad(x))


class StyleBlock(tnn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3, 1)
        self.in1 = tnn.InstanceNorm2d(channels, affine=True)
        self.conv2 = ConvLayer(channels, channels, 3, 1)
        self.in2 = tnn.InstanceNorm2d(channels, affine=True)
        self.relu = tnn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.in2(self.conv2(self.relu(self.in1(self.conv1(x))))) + x


class TransformerNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvLayer(3, 8, 5, 1)
        self.in1 = tnn.InstanceNorm2d(8, affine=True)
        self.conv2 = ConvLayer(8, 16, 3, 2)
        self.in2 = tnn.InstanceNorm2d(16, affine=True)
        self.res1 = StyleBlock(16)
        self.res2 = StyleBlock(16)
        self.res3 = StyleBlock(16)
        self.deconv1 = ConvLayer(16, 8, 3, 1)
        self.in4 = tnn.InstanceNorm2d(8, affine=True)
        self.deconv2 = ConvLayer(8, 3, 5, 1)

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.in1(self.conv1(x)))
        y = functional.relu(self.in2(self.conv2(y)))
        y = self.res3(self.res2(self.res1(y)))
        y = functional.interpolate(y, scale_factor=2.0, mode="nearest")
        return channels_last(self.deconv2(functional.relu(self.in4(self.deconv1(y)))))


class LinenReflected(nn.Module):
    features: int
    size: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        half = self.size // 2
        x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)), mode="reflect")
        return nn.Conv(self.features, (self.size, self.size), self.strides, "VALID")(x)


class LinenStyleBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(nn.InstanceNorm(epsilon=1e-5)(LinenReflected(x.shape[-1], 3)(x)))
        return x + nn.InstanceNorm(epsilon=1e-5)(LinenReflected(x.shape[-1], 3)(y))


class LinenStyle(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number, (width, size, strides) in enumerate(((8, 5, 1), (16, 3, 2))):
            x = LinenReflected(width, size, strides, name=f"down_{number}")(x)
            x = nn.relu(nn.InstanceNorm(epsilon=1e-5, name=f"down_norm_{number}")(x))
        for _ in range(3):
            x = LinenStyleBlock()(x)
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        x = nn.relu(nn.InstanceNorm(epsilon=1e-5, name="up_norm")(LinenReflected(8, 3, name="up")(x)))
        return LinenReflected(3, 5, name="to_rgb")(x)


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "pixelcnn-linen", GatedPixelCNN,
        lambda: Linen(LinenPixelCNN(), (digits(2, 6, 6, below=7), digits(2, below=10))), on_args,
        why="kernels that are not square, convolutions of one place against dense layers, two embeddings",
    ),
    Pair(
        "vqvae-nnx", VQVAE, lambda: Nnx(lambda: NnxVqVae(nnx.Rngs(0)), (image(8),)), on_image,
        allow={"always": ("assumption",)},
        why="a square codebook and its average in buffers of no layer; encoder and decoder of one width",
    ),
    Pair(
        "style-linen", TransformerNet, lambda: Linen(LinenStyle(), (image(8),)), on_image,
        why="instance norms; a layer inside of a layer that only pads; blocks with names of their own",
    ),
)  # fmt: skip
