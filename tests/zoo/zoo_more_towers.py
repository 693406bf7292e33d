"""Towers and heads of one build: which is which is said by what stands beside them.

A detector over a pyramid, three networks of an agent, two heads, a transformer over a pyramid of tokens.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional as F
from zoo_convnets import channels_last, image, on_image
from zoo_layers import BN, C, D, heads, jatt, merge, tatt
from zoo_more_attention import TimmMlp
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import gelu, on_args

# -------------------------------------------------------------------- FPN and heads of Faster R-CNN, torchvision


class DetTv(tnn.Module):
    def __init__(self) -> None:
        super().__init__()

        def cv(i, o, k):
            return tnn.Sequential(tnn.Conv2d(i, o, k, padding=k // 2))

        self.backbone = tnn.Module()
        self.backbone.body = tnn.ModuleDict({"layer1": cv(3, 8, 3), "layer2": cv(8, 8, 3), "layer3": cv(8, 16, 3)})
        self.backbone.fpn = tnn.Module()
        self.backbone.fpn.inner_blocks = tnn.ModuleList([cv(8, 8, 1), cv(8, 8, 1), cv(16, 8, 1)])
        self.backbone.fpn.layer_blocks = tnn.ModuleList([cv(8, 8, 3) for _ in range(3)])
        self.rpn = tnn.Module()
        self.rpn.head = tnn.Module()
        self.rpn.head.conv, self.rpn.head.cls_logits, self.rpn.head.bbox_pred = (
            tnn.Sequential(tnn.Sequential(tnn.Conv2d(8, 8, 3, padding=1), tnn.ReLU())),
            tnn.Conv2d(8, 3, 1),
            tnn.Conv2d(8, 12, 1),
        )
        self.roi_heads = tnn.Module()
        self.roi_heads.box_head = tnn.Module()
        self.roi_heads.box_head.fc6, self.roi_heads.box_head.fc7 = (tnn.Linear(8, 16), tnn.Linear(16, 16))
        self.roi_heads.box_predictor = tnn.Module()
        self.roi_heads.box_predictor.cls_score, self.roi_heads.box_predictor.bbox_pred = (
            tnn.Linear(16, 5),
            tnn.Linear(16, 20),
        )

    def forward(self, x: Any) -> Any:
        cs = []
        for layer in self.backbone.body.values():
            x = F.max_pool2d(torch.relu(layer(x)), 2, 2)
            cs.append(x)
        f = self.backbone.fpn
        p, last = ([None] * 3, None)
        for i in (2, 1, 0):
            inner = f.inner_blocks[i](cs[i])
            last = inner if last is None else inner + F.interpolate(last, scale_factor=2)
            p[i] = f.layer_blocks[i](last)
        out = []
        for v in p:
            h = self.rpn.head.conv(v)
            out += [channels_last(self.rpn.head.cls_logits(h)), channels_last(self.rpn.head.bbox_pred(h))]
        h = torch.relu(self.roi_heads.box_head.fc7(torch.relu(self.roi_heads.box_head.fc6(p[0].mean((2, 3))))))
        return (*out, self.roi_heads.box_predictor.cls_score(h), self.roi_heads.box_predictor.bbox_pred(h))


class JDet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        cs = []
        for i, o in enumerate((8, 8, 16)):
            x = nn.max_pool(nn.relu(nn.Conv(o, (3, 3), name=f"c{i + 2}")(x)), (2, 2), (2, 2))
            cs.append(x)
        p, last = ([None] * 3, None)
        for i in (2, 1, 0):
            inner = nn.Conv(8, (1, 1), name=f"lateral_p{i + 2}")(cs[i])
            last = inner if last is None else inner + last.repeat(2, 1).repeat(2, 2)
            p[i] = nn.Conv(8, (3, 3), name=f"smooth_p{i + 2}")(last)
        out = []
        conv, obj, reg = (
            nn.Conv(8, (3, 3), name="rpn_conv"),
            nn.Conv(3, (1, 1), name="rpn_objectness"),
            nn.Conv(12, (1, 1), name="rpn_deltas"),
        )
        for v in p:
            h = nn.relu(conv(v))
            out += [obj(h), reg(h)]
        h = nn.relu(D(16, "roi_fc_0")(p[0].mean((1, 2))))
        h = nn.relu(D(16, "roi_fc_1")(h))
        return (*out, D(5, "roi_class")(h), D(20, "roi_box")(h))


# -------------------------------------------------------------------- MuZero, werner-duvaud


class MzRes(tnn.Module):
    def __init__(self, c: Any = 8) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            tnn.Conv2d(c, c, 3, 1, 1, bias=False),
            tnn.BatchNorm2d(c),
            tnn.Conv2d(c, c, 3, 1, 1, bias=False),
            tnn.BatchNorm2d(c),
        )

    def forward(self, x: Any) -> Any:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class MuZero(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        c = 8

        def net(i: Any) -> Any:
            m = tnn.Module()
            m.conv, m.bn, m.resblocks = (
                tnn.Conv2d(i, c, 3, 1, 1, bias=False),
                tnn.BatchNorm2d(c),
                tnn.ModuleList([MzRes() for _ in range(2)]),
            )
            return m

        self.representation_network, self.dynamics_network = (net(3), net(c + 1))
        self.dynamics_network.conv1x1_reward, self.dynamics_network.fc = (tnn.Conv2d(c, 2, 1), tnn.Linear(2, 5))
        p = tnn.Module()
        p.resblocks = tnn.ModuleList([MzRes() for _ in range(2)])
        p.conv1x1_value, p.conv1x1_policy, p.fc_value, p.fc_policy = (
            tnn.Conv2d(c, 2, 1),
            tnn.Conv2d(c, 2, 1),
            tnn.Linear(2, 5),
            tnn.Linear(2, 4),
        )
        self.prediction_network = p

    def trunk(self, m: Any, x: Any) -> Any:
        x = torch.relu(m.bn(m.conv(x)))
        for b in m.resblocks:
            x = b(x)
        return x

    def forward(self, x: Any) -> Any:
        s = self.trunk(self.representation_network, x)
        d, p = (self.dynamics_network, self.prediction_network)
        n = self.trunk(d, torch.cat([s, s[:, :1]], 1))
        r = d.fc(d.conv1x1_reward(n).mean((2, 3)))
        for b in p.resblocks:
            n = b(n)
        return (p.fc_policy(p.conv1x1_policy(n).mean((2, 3))), p.fc_value(p.conv1x1_value(n).mean((2, 3))), r)


class JMzRes(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        def cv():
            return nn.Conv(8, (3, 3), use_bias=False)

        y = cv()(x)
        y = nn.relu(BN()(y))
        y = cv()(y)
        return nn.relu(x + BN()(y))


class JTrunk(nn.Module):
    stem: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if self.stem:
            x = nn.relu(BN("stem_bn")(nn.Conv(8, (3, 3), use_bias=False, name="stem")(x)))
        for _ in range(2):
            x = JMzRes()(x)
        return x


class JMuZero(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        s = JTrunk(name="encoder")(x)
        n = JTrunk(name="transition")(jnp.concatenate([s, s[..., :1]], -1))
        r = D(5, "reward_logits")(nn.Conv(2, (1, 1), name="reward_conv")(n).mean((1, 2)))
        n = JTrunk(False, name="predictor")(n)

        def head(w, o):
            return D(o, f"{w}_logits")(nn.Conv(2, (1, 1), name=f"{w}_conv")(n).mean((1, 2)))

        return (head("policy", 4), head("value", 5), r)


# -------------------------------------------------------------------- two heads of one build, lucidrains/byol-pytorch


class Byol(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = tnn.Sequential(tnn.Linear(8, 16), tnn.BatchNorm1d(16), tnn.ReLU())
        self.projection_head = tnn.Sequential(
            tnn.Linear(16, 16, bias=False), tnn.BatchNorm1d(16), tnn.ReLU(), tnn.Linear(16, 16)
        )
        self.prediction_head = tnn.Sequential(
            tnn.Linear(16, 16, bias=False), tnn.BatchNorm1d(16), tnn.ReLU(), tnn.Linear(16, 16)
        )

    def forward(self, x: Any) -> Any:
        return self.prediction_head(self.projection_head(self.encoder(x)))


class JHead(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = D(16, "hidden", False)(x)
        return D(16, "out")(nn.relu(BN("norm")(x)))


class JByol(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(BN("backbone_norm")(D(16, "backbone")(x)))
        return JHead(name="predictor")(JHead(name="projector")(x))


# -------------------------------------------------------------------- PVT, whai362


class PvtAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = (tnn.Linear(C, C), tnn.Linear(C, 2 * C), tnn.Linear(C, C))
        self.sr, self.norm = (tnn.Conv2d(C, C, 2, 2), tnn.LayerNorm(C))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.sr(x.transpose(1, 2).reshape(-1, C, 4, 4)).flatten(2).transpose(1, 2))
        k, v = self.kv(y).chunk(2, -1)
        return self.proj(merge(tatt(heads(self.q(x)), heads(k), heads(v))))


class PvtBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (tnn.LayerNorm(C), PvtAttention(), tnn.LayerNorm(C), TimmMlp())

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PVT(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed1 = tnn.Module()
        self.patch_embed1.proj, self.patch_embed1.norm = (tnn.Conv2d(3, C, 4, 4), tnn.LayerNorm(C))
        self.pos_embed1 = tnn.Parameter(torch.zeros(1, 16, C))
        self.block1 = tnn.ModuleList([PvtBlock() for _ in range(2)])
        self.norm = tnn.LayerNorm(C)
        self.head = tnn.Linear(C, 5)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed1.norm(self.patch_embed1.proj(x).flatten(2).transpose(1, 2)) + self.pos_embed1
        for b in self.block1:
            x = b(x)
        return self.head(self.norm(x).mean(1))


class NPvtAtt(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        self.query, self.key, self.value, self.out = (nnx.Linear(C, C, rngs=rngs) for _ in range(4))
        self.reduce, self.reduce_norm = (
            nnx.Conv(C, C, (2, 2), 2, padding="VALID", rngs=rngs),
            nnx.LayerNorm(C, epsilon=1e-05, rngs=rngs),
        )

    def __call__(self, x: Any) -> Any:
        y = self.reduce_norm(self.reduce(x.reshape(-1, 4, 4, C)).reshape(-1, 4, C))
        return self.out(merge(jatt(heads(self.query(x)), heads(self.key(y)), heads(self.value(y)))))


class NPvtBlock(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        self.attention_norm, self.attention = (nnx.LayerNorm(C, epsilon=1e-05, rngs=rngs), NPvtAtt(rngs))
        self.ffn_norm, self.expand, self.shrink = (
            nnx.LayerNorm(C, epsilon=1e-05, rngs=rngs),
            nnx.Linear(C, 2 * C, rngs=rngs),
            nnx.Linear(2 * C, C, rngs=rngs),
        )

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.attention_norm(x))
        return x + self.shrink(gelu(self.expand(self.ffn_norm(x))))


class NnxPvt(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        self.tokens = nnx.Conv(3, C, (4, 4), 4, padding="VALID", rngs=rngs)
        self.tokens_norm = nnx.LayerNorm(C, epsilon=1e-05, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((1, 16, C)))
        self.pyramid = nnx.List([NPvtBlock(rngs) for _ in range(2)])
        self.last_norm = nnx.LayerNorm(C, epsilon=1e-05, rngs=rngs)
        self.classifier = nnx.Linear(C, 5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.tokens_norm(self.tokens(x).reshape(-1, 16, C)) + self.positions[...]
        for b in self.pyramid:
            x = b(x)
        return self.classifier(self.last_norm(x).mean(1))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "fpn-rcnn-linen",
        DetTv,
        lambda: Linen(JDet(), (image(8),)),
        on_image,
        allow={"files": ("assumption",)},
        why="levels that are called from the top down, heads that are called at each level",
    ),
    Pair(
        "muzero-linen",
        MuZero,
        lambda: Linen(JMuZero(), (image(5),)),
        on_image,
        allow={"always": ("assumption",)},
        why="three networks of one build; what each has besides says which it is",
    ),
    Pair(
        "byol-heads-linen",
        Byol,
        lambda: Linen(JByol(), (features(4, 8),)),
        on_args,
        allow={"always": ("assumption",)},
        why="a projector and a predictor of one build, told by the beginning of a word",
    ),
    Pair(
        "pvt-nnx",
        PVT,
        lambda: Nnx(lambda: NnxPvt(nnx.Rngs(0)), (image(16),)),
        on_image,
        allow={"always": ("assumption",)},
        why="keys from a reduced image, with a norm inside of the attention",
    ),
)
