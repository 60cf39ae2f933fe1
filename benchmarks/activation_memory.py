"""Memory that a forward pass and a decoded frame take beside the weights, against what linnet estimates.

    python benchmarks/activation_memory.py

Each row is one fresh process (Linux: the peak is VmHWM, reset after a warm-up). The transformer has Linum v2's
widths and 2 of its 40 blocks, which is enough: what a block used is free again before the next.
"""

import subprocess
import sys
from pathlib import Path

CASES = [
    ("transformer", 1, 46, 80, "float32"),
    ("transformer", 3, 46, 80, "float32"),
    ("transformer", 3, 46, 80, "bfloat16"),
    ("wan", 3, 16, 16, "float32"),
    ("wan", 3, 24, 24, "float32"),
    ("tiny", 3, 32, 32, "float32"),
    ("tiny", 3, 45, 80, "float32"),
]


def measure(kind: str, frames: int, height: int, width: int, dtype_name: str) -> None:
    """`frames`, `height` and `width` are of the latents."""
    import torch

    from linnet.geometry import Grid
    from linnet.models.tae import TAE, taew2_1
    from linnet.models.transformer import Transformer, TransformerConfig
    from linnet.models.vae import VAE, VAEConfig
    from linnet.plan import memory
    from linnet.plan.execution import ExecutionConfig
    from linnet.plan.memory import BYTES

    latents = torch.randn(1, 16, frames, height, width)
    with torch.inference_mode():
        if kind == "transformer":
            config = TransformerConfig(
                dim=1664, ffn_dim=8192, num_heads=13, num_layers=2, text_len=256, text_dim=64
            )
            model = Transformer(config).eval()
            for layer in (*model.blocks.modules(), *model.text_embedding, model.patch_embedding):  # type: ignore[attr-defined]
                if isinstance(layer, torch.nn.Linear | torch.nn.Conv3d):
                    layer.to(getattr(torch, dtype_name))
            text = model.encode_text([torch.randn(20, 64)])
            before = warm(lambda: model(latents[..., :8, :8], torch.ones(1), text))
            model(latents, torch.ones(1), text)
            tokens = frames * (height // 2) * (width // 2)
            estimate = memory.block_working(memory.LINUM_V2, BYTES[dtype_name], tokens, None, fused=False)
        else:
            decoder = VAE(VAEConfig()) if kind == "wan" else TAE(taew2_1())
            before = warm(lambda: list(decoder.eval().decode_stream(latents[..., :2, :2])))
            for _ in decoder.decode_stream(latents):
                pass
            estimate = memory.decode_working(kind, ExecutionConfig(), Grid(frames, height, width))[0]
    print(f"{(resident('VmHWM') - before) / 1e6:8.0f} {estimate / 1e6:9.0f}")


def warm(run) -> int:
    """Resident bytes after one small pass, from which the peak is then counted."""
    run()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    if len(sys.argv) > 1:
        kind, frames, height, width, dtype = sys.argv[1:]
        return measure(kind, int(frames), int(height), int(width), dtype)
    print(f"{'part':>11} {'latents':>10} {'dtype':>9} {'measured':>8} {'estimate':>9}  MB")
    for kind, *grid, dtype in CASES:
        print(f"{kind:>11} {'x'.join(map(str, grid)):>10} {dtype:>9} ", end="", flush=True)
        subprocess.run([sys.executable, __file__, kind, *map(str, grid), dtype], check=True)
    return None


if __name__ == "__main__":
    main()
