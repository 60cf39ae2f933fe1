"""The machine that runs a plan, resolved once for Python, the command line and the server. Imports no torch before it
must."""

from dataclasses import replace

from linnet.errors import InvalidInput
from linnet.plan.execution import FixedExecution
from linnet.plan.host import (
    ALLOWANCES,
    Budget,
    as_bytes,
    check_threads,
    gigabytes,
    host_memory,
    kind_of,
    may_have_gpu,
)
from linnet.plan.machine import Machine
from linnet.plan.plan import SizedModel
from linnet.request import DtypeChoice, Request, check_dtype, check_text


def resolve_machine(
    device: str | None = None,
    *,
    dtype: DtypeChoice = "auto",
    threads: int | None = None,
    vram: int | str | None = None,
    ram: int | str | None = None,
    here: bool = True,
) -> Machine:
    """The device, the dtype of its matrix products, the threads and the memory, as asked, else as is best here.

    `vram` and `ram`: bytes of the card and of main memory that may be used, or text such as "8GB"; None: what is free.
    Without `here` it may be a card that is not in this machine, to plan for, which `vram` describes. InvalidInput names
    what is not here.
    """
    if threads is not None:
        check_threads(threads)
    if device is not None:
        check_text("device", device)
    dtype, vram, ram = check_dtype(dtype), as_bytes("vram", vram), as_bytes("ram", ram)
    name = device_name(device, vram, here=here)
    budget = budget_of(name, vram=vram, ram=ram)
    if not here and not card_is_here(name):
        usual = "bfloat16" if dtype == "auto" else dtype  # which all cards since 2020 multiply
        # Of a card that is elsewhere: torch's own packages for CUDA bring the compiler.
        return Machine(
            device=name, dtype=usual, threads=threads or 1, budget=budget, compiler=kind_of(name) == "cuda"
        )

    from linnet.runtime.device import (
        check_there,
        circumstances,
        default_dtype,
        default_threads,
        dtype_name,
        resolve_device,
        title,
    )

    name = resolve_device(name)
    if here:
        check_there(name, vram=vram, ram=ram)
    budget = beside_others(name, budget)
    return Machine(
        device=name,
        dtype=dtype_name(default_dtype(name)) if dtype == "auto" else dtype,
        threads=threads or default_threads(),
        budget=budget,
        title=f"{title(name)}, {circumstances()}",
        compiler=kind_of(name) == "cuda" and has_compiler(name),
    )


def check_asked(machine: Machine, fixed: FixedExecution) -> None:
    """InvalidInput where compiled blocks or FP8 products are asked of a machine that has none."""
    if not (fixed.get("fp8") or fixed.get("compiled")):
        return
    import torch

    from linnet.runtime.compile import check_compiler
    from linnet.runtime.device import check_fp8

    if fixed.get("fp8"):
        check_fp8(torch.device(machine.device))
    if fixed.get("compiled") and machine.title is not None:
        check_compiler(machine.device)


def has_compiler(device: str) -> bool:
    from linnet.runtime.compile import compiler_lacks

    return compiler_lacks(device) is None


def refuse_early(
    model: SizedModel,
    request: Request,
    device: str | None,
    *,
    vram: int | None = None,
    ram: int | None = None,
) -> None:
    """TooLarge for what does not fit even in bfloat16, at once: importing torch takes seconds."""
    name = device_name(device, vram, here=False)
    dtype = "bfloat16" if request.dtype == "auto" else request.dtype
    budget = budget_of(name, vram=vram, ram=ram)
    Machine(device=name, dtype=dtype, threads=1, budget=budget).check(model, request)


def with_free_memory(machine: Machine) -> Machine:
    """With what is free now, where nobody has said what may be used."""
    if machine.budget.limited:
        return machine
    budget = budget_of(machine.device, vram=machine.budget.allowed)
    return replace(machine, budget=beside_others(machine.device, budget))


def occupy(machine: Machine) -> None:
    """Take no more than its threads and, of a CUDA card, no more than the budget that was asked for."""
    import torch

    from linnet.runtime.device import limit_memory

    torch.set_num_threads(machine.threads)
    if machine.title is None:
        return  # it is not here
    if "vram" in machine.budget.limited and machine.budget.device is not None:
        limit_memory(machine.device, machine.budget.device - ALLOWANCES[kind_of(machine.device)].device)


def device_name(device: str | None, vram: int | None, *, here: bool) -> str:
    """Which device is meant; torch is asked where that cannot be known without it."""
    if device in (None, "auto"):
        if vram is not None and not here:
            return "cuda"
        if not may_have_gpu():
            return "cpu"
    elif kind_of(device) == "cpu" or (not here and kind_of(device) in ("cuda", "mps")):
        return device
    from linnet.runtime.device import resolve_device

    return resolve_device(device or "auto")


def card_is_here(name: str) -> bool:
    if kind_of(name) == "cpu":
        return True
    if not may_have_gpu():
        return False
    from linnet.runtime.device import is_here

    return is_here(name)


def beside_others(device: str, budget: Budget) -> Budget:
    """The budget on a card that is here: what is free now counts where a person allowed more. One of more than the card
    has is of another card, and stays."""
    from linnet.runtime.device import card_memory

    memory = card_memory(device)
    if memory is None or budget.device is None or budget.device > memory.total:
        return budget
    left, others = memory.total - memory.others, memory.others
    if "vram" not in budget.limited or budget.device <= left:
        return replace(budget, others=others)
    limited = budget.limited - {"vram"}
    return replace(budget, device=left, limited=limited, others=others, allowed=budget.device)


def budget_of(device: str, *, vram: int | None = None, ram: int | None = None) -> Budget:
    """What a person allows, in bytes, and for the rest what is free now; a card that is not here must be described."""
    limited = frozenset(name for name, size in (("vram", vram), ("ram", ram)) if size is not None)
    system = host_memory() if ram is None else ram
    if kind_of(device) == "cpu":
        if vram is not None:
            raise InvalidInput(
                "vram",
                gigabytes(vram),
                "is the memory of a card, and cpu is none",
                "give main memory, or a card as the device",
            )
        return Budget(system=system, limited=limited)
    if vram is None:
        problem = f"is not given, and there is no {device} here whose memory could be asked for"
        unknown = InvalidInput("vram", "", problem, "say how much the card has, such as 8GB")
        if not may_have_gpu():
            raise unknown
        from linnet.runtime.device import available_memory, resolve_device  # imports torch

        try:
            vram = available_memory(resolve_device(device))
        except InvalidInput:
            raise unknown from None
    return Budget(device=vram, system=system, limited=limited)
