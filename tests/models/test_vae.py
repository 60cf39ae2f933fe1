"""The video autoencoder against recordings of the published one; and streams against whole clips."""

import json
import os
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from linnet.errors import InvalidInput
from linnet.models.vae import VAE, Past, RMSNorm, VAEConfig, fuse_norms, lay_channels_last
from tiny_models import SMALL_VAE, close, draw, random_vae

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDINGS = sorted(GOLDEN.glob("vae_*.safetensors"))


VIDEO, LATENTS = draw(2, 3, 21, 16, 24).clamp(-1, 1), draw(2, 4, 6, 2, 3)


def cut(x: Tensor, lengths: list[int]) -> list[Tensor]:
    """Pieces of `lengths` frames (as far as they go), and the rest."""
    ends = [0, *(end for end in accumulate(lengths) if end < x.shape[2]), x.shape[2]]
    return [x[:, :, start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stream", [False, True])
def test_equals_the_published_autoencoder(path: Path, stream: bool) -> None:
    with safe_open(path, framework="pt") as file:
        vae = VAE(VAEConfig(**json.loads(file.metadata()["config"])))
        recorded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    vae.load_state_dict({k.removeprefix("state."): v for k, v in recorded.items() if "state." in k})
    video, latents = recorded["input.video"], recorded["input.latents"]
    with torch.inference_mode():
        if stream:
            encoded = torch.cat(list(vae.encode_stream([video])), dim=2)
            decoded = torch.cat(list(vae.decode_stream(latents)), dim=2)
        else:
            encoded, decoded = vae.encode(video), vae.decode(latents)
    close(encoded, recorded["output.latents"])
    close(decoded, recorded["output.video"])


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 2


def test_tensors_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        vae = VAE(VAEConfig())
    published = json.loads((GOLDEN / "vae_names.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in vae.state_dict().items()} == published


WHOLE_ENCODED, WHOLE_DECODED = SMALL_VAE.encode(VIDEO), SMALL_VAE.decode(LATENTS)
lengths = st.lists(st.integers(1, 9), max_size=9)


@given(lengths)
@settings(max_examples=8, deadline=None)
def test_any_chunks_encode_to_the_same(lengths: list[int]) -> None:
    latents = list(SMALL_VAE.encode_stream(cut(VIDEO, lengths)))
    assert [frames.shape[2] for frames in latents] == [1] * 6
    close(torch.cat(latents, dim=2), WHOLE_ENCODED, 1e-6)


@given(lengths)
@settings(max_examples=8, deadline=None)
def test_any_chunks_decode_to_the_same(lengths: list[int]) -> None:
    past = Past()
    close(torch.cat([SMALL_VAE.decode(z, past) for z in cut(LATENTS, lengths)], dim=2), WHOLE_DECODED, 1e-6)


@given(lengths)
@settings(max_examples=4, deadline=None)
def test_several_latent_frames_encode_at_a_time(lengths: list[int]) -> None:
    past, first, rest = Past(), VIDEO[:, :, :1], VIDEO[:, :, 1:]
    chunks = [first, *cut(rest, [4 * length for length in lengths])]
    close(torch.cat([SMALL_VAE.encode(chunk, past) for chunk in chunks], dim=2), WHOLE_ENCODED, 1e-6)


@pytest.mark.parametrize(("chunk", "frames"), [(1, [1, 4, 4, 4, 4, 4]), (4, [13, 8])])
def test_frames_of_a_decoded_stream(chunk: int, frames: list[int]) -> None:
    assert [video.shape[2] for video in SMALL_VAE.decode_stream(LATENTS, chunk)] == frames


def test_streams_do_not_meet() -> None:
    """Two clips, decoded turn by turn, are as each alone."""
    one, other = SMALL_VAE.decode_stream(LATENTS[:1]), SMALL_VAE.decode_stream(LATENTS[1:])
    both = torch.cat([torch.cat(pair) for pair in zip(one, other, strict=True)], dim=2)
    close(both, WHOLE_DECODED)


def test_the_past_does_not_grow() -> None:
    def held(past: Past) -> int:
        tails = [tail for tail in past.tails.values() if isinstance(tail, Tensor)]
        return sum(tail.untyped_storage().nbytes() for tail in tails)

    encoding, decoding = Past(), Past()
    SMALL_VAE.encode(VIDEO[:, :, :5], encoding)
    SMALL_VAE.decode(LATENTS[:, :, :2], decoding)
    sizes = held(encoding), held(decoding)
    assert min(sizes) > 0
    SMALL_VAE.encode(VIDEO[:, :, 5:], encoding)
    SMALL_VAE.decode(LATENTS[:, :, 2:], decoding)
    assert (held(encoding), held(decoding)) == sizes


def test_the_norm_is_blind_to_scale() -> None:
    norm, x = RMSNorm(8, axes=2), draw(2, 8, 3, 5)
    close(norm(1e-9 * x), norm(x))
    assert not norm(0 * x).any()


def test_bfloat16_weights_stay_near() -> None:
    vae = random_vae()
    for module in vae.modules():
        if not isinstance(module, RMSNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    close(vae.encode(VIDEO), WHOLE_ENCODED, 0.03)
    close(vae.decode(LATENTS), WHOLE_DECODED, 0.03)


@pytest.mark.parametrize("frames", [0, 2, 4])
def test_frames_off_the_grid_are_refused(frames: int) -> None:
    with pytest.raises(InvalidInput, match="4n \\+ 1"):
        SMALL_VAE.encode(VIDEO[:, :, :frames])
    with pytest.raises(InvalidInput, match="4n \\+ 1"):
        list(SMALL_VAE.encode_stream(VIDEO[:, :, :frames].split(1, dim=2)))


def test_a_later_chunk_off_the_grid_is_refused() -> None:
    past = Past()
    SMALL_VAE.encode(VIDEO[:, :, :1], past)
    with pytest.raises(InvalidInput, match="4n \\+ 0"):
        SMALL_VAE.encode(VIDEO[:, :, 1:6], past)


def test_sizes_off_the_grid_are_refused() -> None:
    with pytest.raises(InvalidInput, match='size "20x16"'):
        SMALL_VAE.encode(VIDEO[:, :, :1, :16, :20])


def test_norm_and_silu_at_once_are_norm_then_silu() -> None:
    """To the bit, where there is no card."""
    vae = VAE(VAEConfig(dim=8)).requires_grad_(False)
    latents = draw(1, 16, 2, 4, 6)
    separate = vae.decode(latents)
    assert torch.equal(fuse_norms(vae).decode(latents), separate)
    assert all(layer.kernel for layer in vae.modules() if isinstance(layer, RMSNorm))


def test_weights_with_channels_last_are_the_same_weights() -> None:
    vae = random_vae()
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    lay_channels_last(vae)
    assert all(torch.equal(weight, before[name]) for name, weight in vae.state_dict().items())
    assert vae.decoder.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not vae.decoder.conv1.weight.is_contiguous()
    close(vae.encode(VIDEO), WHOLE_ENCODED)
    close(vae.decode(LATENTS), WHOLE_DECODED)


KERNEL = """
import torch
from linnet.models.norm_silu import launched, slow
for kind, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):  # the interpreter cuts bfloat16 off
    for channels in (6, 96):
        x, gamma = torch.randn(1, channels, 2, 5, 7, dtype=kind), 1 + torch.randn(channels, 1, 1, 1) / 10
        with torch.no_grad():
            ours, theirs = launched(x, gamma).float(), slow(x, gamma).float()
        assert (ours - theirs).norm() < most * theirs.norm(), (kind, channels)
"""
COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from linnet.models.norm_silu import BLOCK
from linnet.models.triton_kernels import norm_silu_kernel
for card in (86, 89, 90):
    types = {"x": "*bf16", "gamma": "*fp32", "out": "*bf16", "positions": "i32", "scale": "fp32"}
    values = {"SMALLEST": 1e-12, "CHANNELS": 384, "WIDTH": 512, "POSITIONS": BLOCK // 512}
    source = ASTSource(
        norm_silu_kernel, signature=types | dict.fromkeys(values, "constexpr"), constexprs=values
    )
    assert triton.compile(source, target=GPUTarget("cuda", card, 32)).asm["cubin"]
"""


@pytest.mark.parametrize(("code", "interpreted"), [(KERNEL, "1"), (COMPILED, "0")], ids=["numbers", "cards"])
def test_the_kernel_of_norm_and_silu(code: str, interpreted: str) -> None:
    """Its numbers by triton's interpreter; and it is compiled for three kinds of cards, none of which is here."""
    pytest.importorskip("triton", reason="comes with torch's builds for CUDA, or by pip install triton")
    environment = os.environ | {"TRITON_INTERPRET": interpreted}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
