"""Decoding in tiles is decoding: any size, any tiling, wherever the pasts wait."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from linnet.errors import InvalidInput
from linnet.models.vae import QUERIES, VAE, Past, VAEConfig
from linnet.plan import tiles as tile_sizes
from linnet.plan.execution import Tiling
from linnet.plan.tiles import Span, cores, decode_sizes, needed, tiles_of, wan_decoder, work
from linnet.runtime import transfer
from linnet.runtime.tiles import decode_tiled, described, halves
from live import Live
from tiny_models import SMALL_VAE, close, draw

sides = st.integers(1, 24)
tilings = st.builds(Tiling, rows=sides, columns=sides, chunk=st.integers(1, 4))


@given(sides, st.integers(1, 5), st.integers(1, 3), tilings)
@example(29, 3, 3, Tiling(rows=8, columns=9, chunk=2))
@example(3, 19, 2, Tiling(rows=3, columns=2, chunk=1))
@settings(max_examples=6, deadline=None)
def test_tiles_decode_to_the_same(height: int, width: int, steps: int, tiling: Tiling) -> None:
    latents = draw(1, 4, steps, height, width)
    with torch.inference_mode():
        frames = list(decode_tiled(SMALL_VAE, latents, tiling))
        assert [part.shape[2] for part in frames] == [1, *[4] * (steps - 1)]
        close(torch.cat(frames, dim=2), SMALL_VAE.decode(latents))


@given(sides, sides)
def test_cores_cover_a_side_once(size: int, length: int) -> None:
    spans = cores(size, length)
    assert [i for span in spans for i in range(*span)] == list(range(size))
    assert max(span.length for span in spans) <= length
    assert max(span.length for span in spans) - min(span.length for span in spans) <= 1


def test_a_seam_is_no_wider_than_the_layers_see() -> None:
    """13 pixels at the smallest level that is tiled, so 7 cells; none at the frame's border."""
    layers = [described(layer) for layer in halves(SMALL_VAE)[1]]
    assert needed(layers, Span(20, 30), 60)[0] == Span(13, 37)
    assert needed(layers, Span(0, 30), 30)[0] == Span(0, 30)


class Elsewhere:
    """Stands for the copies between two devices on a machine that has one: what is parked is really apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parked = 0
        self.places: set[int] = set()
        for name in ("move", "park"):
            monkeypatch.setattr(transfer, name, getattr(self, name))

    def move(self, x: Tensor, device: torch.device) -> Tensor:
        assert x.data_ptr() in self.places
        return x.clone()

    def park(self, x: Tensor, device: torch.device, place: Tensor | None = None) -> Tensor:
        if place is None:
            place = torch.from_numpy(x.numpy().copy())  # which `Live` does not see: it is on another device
            self.parked += x.nbytes
            self.places.add(place.data_ptr())
        else:
            transfer.copy(place, x)
        return place


@pytest.mark.parametrize(
    "tiling",
    [Tiling(rows=9, columns=9, chunk=2), Tiling(rows=18, columns=6, chunk=1)],
    ids=["tiles", "whole"],
)
def test_pasts_wait_elsewhere_and_sizes_are_known(tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = VAE(VAEConfig(dim=8)).requires_grad_(False)
    latents = draw(1, 16, 3, 18, 6)
    frames: list[Tensor] = []
    elsewhere = Elsewhere(monkeypatch)
    with Live() as live, torch.no_grad():
        for part in decode_tiled(vae, latents, tiling):
            frames.append(torch.from_numpy(part.numpy().copy()))
            del part
    close(torch.cat(frames, dim=2), vae.decode(latents))
    whole, tiled = ([described(layer) for layer in half] for half in halves(vae))
    sizes = decode_sizes((whole, tiled), 18, 6, tiling, 4)
    chunk = tiling.chunk * frames[-1].nbytes  # the one device here also holds the frames
    assert sizes.parked == elsewhere.parked + chunk
    assert abs(sizes.peak - (live.peak - chunk)) < 0.1 * sizes.peak
    shorter = decode_sizes((whole, tiled), 18, 6, tiling, 4, steps=1)
    assert (shorter.resident, shorter.pasts) == (0, 0)  # one chunk leaves no past behind


def test_pasts_in_bfloat16_cost_a_small_error() -> None:
    """As large as `decode_tiled` says."""
    torch.manual_seed(0)
    vae = VAE(VAEConfig(dim=8)).requires_grad_(False)
    latents = draw(1, 16, 6, 12, 12)
    with torch.inference_mode():
        exact = vae.decode(latents)
        frames = list(decode_tiled(vae, latents, Tiling(rows=6, columns=12, chunk=1), pasts="bfloat16"))
    error = float((torch.cat(frames, dim=2) - exact).norm() / exact.norm())
    assert 1e-3 < error < 1e-2


def test_720p_decodes_in_under_2_gb() -> None:
    """Weights and all, by the sizes that the test above holds to what is measured."""
    with torch.device("meta"):
        vae = VAE(VAEConfig())
    sizes = decode_sizes(wan_decoder(), 90, 160, Tiling(), 2)
    assert tuple([described(layer) for layer in half] for half in halves(vae)) == wan_decoder()
    assert tile_sizes.QUERIES == QUERIES
    assert sizes.peak + 2 * sum(weight.numel() for weight in vae.parameters()) < 2e9
    assert sizes.parked < 6e9


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"chunk": -1}])
def test_empty_tiles_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="use 1 or more"):
        Tiling(**wrong)


def test_the_work_of_a_tile_is_what_its_convolutions_multiply() -> None:
    with torch.device("meta"):
        vae, past, latents = VAE(VAEConfig()), Past(), torch.empty(1, 16, 1, 6, 10)
        vae.decode(latents, past)
        with FlopCounterMode(display=False) as counter:
            vae.decode(latents, past)
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    frame = Tiling(rows=6, columns=10)
    ours = sum(work(part, tile) for part in wan_decoder() for tile in tiles_of(part, 6, 10, frame))
    assert ours == pytest.approx(counted / 2, rel=0.02)
