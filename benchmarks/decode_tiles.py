"""What decoding in tiles holds on a device, at full size and without one: fake tensors of the true shapes.

    python benchmarks/decode_tiles.py [--size 1280x720] [--tiles 30x40 45x54 90x160] [--chunk 4] [--latents 9]

A row a tiling (rows x columns of latent cells; the last of these is a whole 720p frame), bfloat16. `peak` is the most
that tensors took on the device while that many latent frames were decoded, weights included, and `predicted` what
`decode_sizes` says; `parked` waits in system memory; `work` is how many multiplications there are for one of a decode
in whole frames. Workspaces of the kernels are not seen. In GB; ends with one line of JSON.
"""

import argparse
import json
import time
import weakref
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linnet.geometry import PIXELS_PER_LATENT, Size
from linnet.models.vae import VAE, VAEConfig
from linnet.plan.execution import Tiling
from linnet.plan.tiles import Tile, decode_sizes, tiles_of, wan_decoder
from linnet.runtime import transfer
from linnet.runtime.tiles import decode_tiled, described, halves

AWAY = torch.device("meta")  # stands for system memory


class Held(TorchDispatchMode):
    """The bytes of living tensors that are not away, at their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device != AWAY and x.untyped_storage()._cdata not in self.sizes:
                key = x.untyped_storage()._cdata
                self.sizes[key] = x.untyped_storage().nbytes()
                self.peak = max(self.peak, sum(self.sizes.values()))
                weakref.finalize(x.untyped_storage(), self.sizes.pop, key, None)
        return out


def measure(size: Size, tiling: Tiling, latents: int) -> dict[str, Any]:
    rows, columns = size.height // PIXELS_PER_LATENT, size.width // PIXELS_PER_LATENT
    home, start = torch.device("cpu"), time.monotonic()
    moves = {
        "move": lambda x, device: torch.empty_like(x, device=home),
        "park": lambda x, device, place=None: torch.empty_like(x, device=AWAY),
        "copy": lambda target, source: None,
    }
    with FakeTensorMode():
        vae = VAE(VAEConfig()).requires_grad_(False)
        for weight in vae.parameters():
            weight.data = weight.data.to(torch.bfloat16)
        z, held = torch.empty(1, vae.config.z_dim, latents, rows, columns), Held()
        with held, torch.no_grad(), patch.multiple(transfer, **moves):
            for frames in decode_tiled(vae, z, tiling, parked=AWAY):
                del frames
    weights = sum(2 * weight.numel() for weight in vae.parameters())
    sizes = decode_sizes(wan_decoder(), rows, columns, tiling, 2, steps=min(latents, tiling.chunk))
    layers = halves(vae)[1]
    records = [described(layer) for layer in layers]
    whole, tiles = (
        tiles_of(records, rows, columns, way) for way in (Tiling(rows=rows, columns=columns), tiling)
    )
    return {
        "tiles": f"{tiling.rows}x{tiling.columns}",
        "chunk": tiling.chunk,
        "latents": latents,
        "peak": (held.peak + weights) / 1e9,
        "predicted": (sizes.peak + weights) / 1e9,
        "parked": sizes.parked / 1e9,
        "work": sum(work(layers, tile) for tile in tiles) / work(layers, whole[0]),
        "seconds": time.monotonic() - start,
    }


def work(layers: list[nn.Module], tile: Tile) -> int:
    """Multiplications for one latent frame of a tile."""
    frames, total = 1, 0
    for i, layer in enumerate(layers):
        convs = [conv for conv in layer.modules() if isinstance(conv, nn.Conv2d | nn.Conv3d)]
        record = described(layer)
        frames *= 2 if record.doubles else 1
        area = tile.rows[i].length * tile.columns[i].length * record.scale**2
        total += frames * area * sum(conv.weight.numel() for conv in convs)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=Size.parse, default=Size(1280, 720))
    parser.add_argument("--tiles", nargs="+", default=["30x40", "45x54", "90x160"])
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--latents", type=int, nargs="+", default=[9])
    options = parser.parse_args()
    rows = []
    for tiles in options.tiles:
        for latents in options.latents:
            height, width = map(int, tiles.split("x"))
            row = measure(options.size, Tiling(rows=height, columns=width, chunk=options.chunk), latents)
            rows.append(row)
            shown = (
                f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in row.items()
            )
            print("  ".join(shown), flush=True)
    print(json.dumps({"size": str(options.size), "dtype": "bfloat16", "rows": rows}))


if __name__ == "__main__":
    main()
