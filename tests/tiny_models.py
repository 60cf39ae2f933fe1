"""Networks so small that a test runs them in no time, with random weights and inputs."""

from dataclasses import asdict

import torch
from torch import Tensor

from linnet.models.transformer import Transformer, TransformerConfig
from linnet.models.vae import VAE, RMSNorm, VAEConfig
from linnet.runtime.stream import BlockStream

SMALL = TransformerConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_len=8, text_dim=12)
DEEPER = TransformerConfig(**{**asdict(SMALL), "num_layers": 5})


def random_model(seed: int = 0, config: TransformerConfig = SMALL) -> Transformer:
    """One in which nothing is silent."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config).initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TIMESTEP = draw(2, 16, 3, 5, 6), torch.tensor([900.0, 17.5])
STATES = [draw(3, SMALL.text_dim)]


@torch.inference_mode()
def velocity(model: Transformer, blocks: BlockStream | None = None) -> Tensor:
    text = model.encode_text(STATES, blocks=blocks)
    return torch.stack([model(LATENTS, TIMESTEP - i, text, blocks=blocks) for i in range(2)])


def random_vae() -> VAE:
    """A small one in which nothing is silent."""
    vae = VAE(VAEConfig(dim=4, z_dim=4))
    for i, parameter in enumerate(vae.parameters()):
        spread = 0.2 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.data = draw(*parameter.shape, seed=i) * spread
    for norm in (module for module in vae.modules() if isinstance(module, RMSNorm)):
        norm.gamma.data += 1
    return vae.requires_grad_(False)


SMALL_VAE = random_vae()


def close(out: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    assert out.shape == reference.shape
    assert out.dtype == reference.dtype
    assert (out - reference).norm() <= tolerance * reference.norm()
