"""The machine that a plan is made for. Imports no torch until a card is to be asked."""

from linnet.errors import InvalidInput
from linnet.plan.budget import Budget, gigabytes, kind_of
from linnet.plan.host import host_memory, may_have_gpu


def budget_of(device: str, *, vram: int | None = None, ram: int | None = None) -> Budget:
    """What a person allows, in bytes, and for the rest what is free now; a card that is not here must be described."""
    asked = frozenset(name for name, size in (("vram", vram), ("ram", ram)) if size is not None)
    system = host_memory() if ram is None else ram
    if kind_of(device) == "cpu":
        if vram is not None:
            raise InvalidInput(
                "vram",
                gigabytes(vram),
                "is the memory of a card, and cpu is none",
                "use --ram or --device cuda",
            )
        return Budget(system=system, asked=asked)
    if vram is None:
        problem = f"is not given, and there is no {device} here whose memory could be asked for"
        unknown = InvalidInput("vram", "", problem, "say how much the card has, such as --vram 8GB")
        if not may_have_gpu():
            raise unknown
        from linnet.runtime.device import available_memory, resolve_device  # imports torch

        try:
            vram = available_memory(resolve_device(device))
        except InvalidInput:
            raise unknown from None
    return Budget(device=vram, system=system, asked=asked)
