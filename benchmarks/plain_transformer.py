"""Linum v2's transformer said as plainly as possible: the baseline of benchmarks/forward.py, and a second opinion.

Float32 weights, every tensor as the equations have it, nothing kept from step to step; run it under bfloat16 autocast
as the published pipeline runs. It takes the state dict of `linnet.models.transformer.Transformer`.
Axes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L tokens, S text rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linnet.models.transformer import TransformerConfig


class PlainAttention(nn.Module):
    def __init__(self, dim: int, heads: int, *, text: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k, self.v = nn.Linear(dim, dim, bias=not text), nn.Linear(dim, dim, bias=not text)
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, context: Tensor, turns: Tensor | None) -> Tensor:
        """`turns`, complex [L, d/2], rotates queries and keys of self-attention."""
        split = (self.heads, -1)
        query = self.norm_q(self.q(x)).unflatten(-1, split)
        key = self.norm_k(self.k(context)).unflatten(-1, split)
        value = self.v(context).unflatten(-1, split)
        if turns is not None:
            query, key = turned(query, turns).to(value.dtype), turned(key, turns).to(value.dtype)
        query, key, value = (rows.to(value.dtype).transpose(1, 2) for rows in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.o(mixed.transpose(1, 2).flatten(2))


def turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[:, None]).flatten(3).float()


class PlainBlock(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-5) for _ in range(3))
        self.self_attn = PlainAttention(dim, config.num_heads, text=False)
        self.cross_attn = PlainAttention(dim, config.num_heads, text=True)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )

    def forward(self, x: Tensor, e0: Tensor, turns: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + e0).chunk(6, dim=1)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.self_attn(h, h, turns)
        x = x + self.cross_attn(self.norm3(x), text, None)
        return x + gate2 * self.ffn(self.norm2(x) * (1 + scale2) + shift2)


class PlainHead(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        self.norm, self.head = nn.LayerNorm(config.dim, eps=1e-5), nn.Linear(config.dim, 4 * config.channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, None]).chunk(2, dim=1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class PlainTransformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.patch_embedding = nn.Conv3d(config.channels, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim, bias=False),
            nn.GELU(approximate="tanh"),
            nn.Linear(dim, dim, bias=False),
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.num_layers))
        self.head = PlainHead(config)

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Velocity [B, C, T, H, W] of latents with even H and W; `text` is [B, S, text_dim] without padding."""
        config, (_, _, frames, height, width) = self.config, latents.shape
        grid = (frames, height // 2, width // 2)
        x = self.patch_embedding(latents).flatten(2).transpose(1, 2).float()

        half = config.freq_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(timestep.double(), frequency)
        with torch.autocast("cpu", enabled=False):
            e = self.time_embedding(torch.cat((angle.cos(), angle.sin()), 1).float())
            e0 = self.time_projection(e).unflatten(1, (6, -1))

        text = self.text_embedding(F.pad(text, (0, 0, 0, config.text_len - text.shape[1])))
        turns = turning(grid, config.dim // config.num_heads)
        for block in self.blocks:
            x = block(x, e0, turns, text)

        cells = self.head(x, e).float().unflatten(1, grid).unflatten(-1, (2, 2, -1))  # B T h w p q C
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def turning(grid: tuple[int, int, int], head_dim: int) -> Tensor:
    """exp(i * angle) of every token and pair of channels: [L, head_dim/2]."""
    pairs = head_dim // 2
    spatial = pairs // 3
    places = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = []
    for place, share in zip(places, (pairs - 2 * spatial, spatial, spatial), strict=True):
        frequency = 10_000.0 ** (-torch.arange(share, dtype=torch.float64) / share)
        angles.append(torch.outer(place.flatten(), frequency))
    return torch.polar(torch.ones(1, dtype=torch.float64), torch.cat(angles, dim=1))
