"""Which kernels Inductor makes of a Linum block for an H100 that is not there, and the bytes that each of them moves.

    python benchmarks/inductor.py [--tokens 11960] [--text-rows 14] [--source FILE]

Needs no card, but the package triton, which torch's builds for CUDA bring and those for the CPU lack: `pip install
triton`. 11,960 tokens are 2 s of 640x360. Products of matrices and attention are torch's own kernels; the others are
elementwise, and should move no more than 1.0 GB. Ends with the rows as one line of JSON.
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MOST = 1_000_000_000  # bytes that the elementwise kernels of a block should move
H100 = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    total_memory=80 * 2**30,
    multi_processor_count=132,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2_048,
    max_threads_per_block=1_024,
    warp_size=32,
    shared_memory_per_block=49_152,
    shared_memory_per_block_optin=232_448,
    shared_memory_per_multiprocessor=233_472,
    L2_cache_size=50 * 2**20,
    clock_rate=1_980_000,
    memory_bus_width=5_120,
    memory_clock_rate=2_619_000,
    gcnArchName="",
)


@dataclass(frozen=True)
class Kernel:
    """`written` is "by Inductor", or the name of torch's own kernel."""

    name: str
    written: str
    bytes: int


def pretend() -> None:
    """Torch, its compiler and triton see an H100, on which nothing can run."""
    import torch
    import torch._dynamo.device_interface as interfaces
    import torch._functorch.aot_autograd as aot
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.runtime.driver import driver  # pyright: ignore[reportMissingImports]

    def constant(value: Any) -> Any:
        return staticmethod(lambda *given, **more: value)

    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
            get_current_device=lambda: 0,
            get_active_torch_device=lambda: torch.device("cuda", 0),
        )
    )
    card: Any = interfaces.get_interface_for_device("cuda")
    answers = {
        "get_device_properties": H100,
        "get_compute_capability": 90,
        "current_device": 0,
        "device_count": 1,
        "is_available": True,
        "is_triton_capable": True,
        "is_bf16_supported": True,
        "raise_if_triton_unavailable": None,
        "synchronize": None,
    }
    for name, value in answers.items():
        setattr(card, name, constant(value))
    card.Worker.get_device_properties = constant(H100)
    card.Worker.current_device = constant(0)
    capability = {"get_device_capability": (9, 0), "_lazy_init": None}
    for name, value in {**answers, **capability}.items():
        if hasattr(torch.cuda, name):
            setattr(torch.cuda, name, lambda *given, value=value, **more: value)
    torch.version.cuda = "13.0"
    # A card that is not there has no generator.
    setattr(aot, "preserve_rng_state", contextlib.nullcontext)  # noqa: B010, it is no public name


def block_of_linum(tokens: int, text_rows: int) -> tuple[Callable[..., Any], list[Any]]:
    """One pass of a block in bfloat16 as a function of flat tensors, and fake ones on the card."""
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    from linnet.models import attention
    from linnet.models.attention import Rotary
    from linnet.models.transformer import Block, Change, linum_v2
    from linnet.weights.load import product_dtypes

    config = linum_v2()
    heads, width = config.num_heads, config.dim // config.num_heads

    @torch.library.custom_op("card::attention", mutates_args=(), device_types=("cpu", "cuda"))
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return query.clone()

    @attend.register_fake
    def like(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        # The layout that cuDNN and flash attention give: that of the query.
        return torch.empty_like(query)

    def opaque(query: Any, key: Any, value: Any, bias: Any = None) -> Any:
        return attend(query, key, value)

    attention.attend = opaque
    with torch.device("meta"):
        block = Block(config)
    kinds = product_dtypes(block, torch.bfloat16)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, device="cuda", dtype=dtype)

    weights = {
        name: empty(*x.shape, dtype=kinds.get(name, torch.float32)) for name, x in block.state_dict().items()
    }
    block.load_state_dict(weights, assign=True)
    block.requires_grad_(False)
    stream = empty(1, tokens, config.dim)
    change = Change(empty(1, tokens, config.dim, dtype=torch.bfloat16), empty(1, 1, config.dim))
    tables = Rotary(*(empty(tokens, 1, width // 2) for _ in range(2)))
    text = [empty(1, heads, text_rows, width, dtype=torch.bfloat16) for _ in range(2)]
    given = (stream, change, empty(1, 6, config.dim), tables, *text, empty(1, 1, 1, text_rows))
    flat, spec = tree_flatten((weights, given))

    def run(*flat: Any) -> Any:
        own, given = tree_unflatten(list(flat), spec)
        with torch.no_grad():
            x, change = torch.func.functional_call(block, own, (*given, opaque))
        return x, change.value

    return run, flat


def compiled(tokens: int, text_rows: int) -> tuple[list[Kernel], str]:
    """The kernels, and the source that Inductor wrote."""
    import torch
    import torch._inductor.config
    from torch._functorch.aot_autograd import aot_function
    from torch._inductor.compile_fx import _recursive_post_grad_passes
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes import fuse_attention, joint_graph, misc_patterns, pad_mm
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._inductor.config.compile_threads = 1
    torch.compiler.is_compiling = lambda: True
    # Passes that would run small samples on the card, to know what to replace.
    for module in (fuse_attention, joint_graph, misc_patterns, pad_mm):
        for name in ("_sfdp_init", "_pad_mm_init", "_misc_patterns_init"):
            if hasattr(module, name):
                setattr(module, name, lambda *given, **more: None)
    fake, found = FakeTensorMode(), []
    sources: list[str] = []

    def lower(gm: Any, example_inputs: Any) -> Any:
        with V.set_fake_mode(fake):
            joint_graph.joint_graph_passes(gm)
            _recursive_post_grad_passes(gm, is_inference=True)
            graph = GraphLowering(gm, example_inputs=example_inputs, is_inference=True)
            with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
                graph.run(*example_inputs)
                code, _ = graph.codegen()
                for node in graph.scheduler.nodes:
                    own = getattr(getattr(node, "node", None), "python_kernel_name", None)
                    extern = "Extern" in type(node).__name__
                    found.append(
                        Kernel(
                            node.get_name(),
                            (own or "torch's") if extern else "by Inductor",
                            node.get_read_write_buffers_sizes(),
                        )
                    )
        sources.append(getattr(code, "value", str(code)))
        raise Lowered

    with fake, torch.no_grad():
        run, flat = block_of_linum(tokens, text_rows)
        function = aot_function(
            run, fw_compiler=lower, inference_compiler=lower, decompositions=select_decomp_table()
        )
        with contextlib.suppress(Lowered):
            function(*flat)
    return found, sources[0]


class Lowered(Exception):
    """The kernels are known; there is no card to run them on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=11_960)
    parser.add_argument("--text-rows", type=int, default=14)
    parser.add_argument("--source", type=Path, help="write what Inductor wrote into this file")
    options = parser.parse_args()
    if find_spec("triton") is None:
        raise SystemExit(
            "this needs the package triton, which torch's builds for the CPU lack: pip install triton"
        )
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        pretend()
        kernels, source = compiled(options.tokens, options.text_rows)
    if options.source:
        options.source.write_text(source, "utf-8")
    for kernel in kernels:
        print(f"{kernel.name:36} {kernel.written:36} {kernel.bytes / 1e6:9.1f} MB")
    elementwise = sum(kernel.bytes for kernel in kernels if kernel.written == "by Inductor")
    others = sum(kernel.bytes for kernel in kernels) - elementwise
    verdict = "within" if elementwise <= MOST else "over"
    print(
        f"elementwise: {elementwise / 1e9:.2f} GB a block, {verdict} {MOST / 1e9:.1f} GB; others: {others / 1e9:.2f} GB"
    )
    print(
        json.dumps(
            {
                "tokens": options.tokens,
                "elementwise_bytes": elementwise,
                "other_bytes": others,
                "kernels": [asdict(kernel) for kernel in kernels],
            }
        )
    )


if __name__ == "__main__":
    main()
