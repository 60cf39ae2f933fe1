"""One step along the flow, from `sigma` to `sigma_next`."""

from jaxtyping import Float
from torch import Tensor


def euler(
    x: Float[Tensor, "B C T H W"],
    velocity: Float[Tensor, "B C T H W"],
    sigma: Float[Tensor, ""],
    sigma_next: Float[Tensor, ""],
) -> Float[Tensor, "B C T H W"]:
    return x + (sigma_next - sigma) * velocity
