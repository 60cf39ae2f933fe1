"""What other programs call the tensors of a LoRA's file. Reads no tensor, imports no torch.

A key is a module, spelled in one of a few ways, and what it holds for it. The spellings are made from the model's own
parameters, so that a name with underscores means one module or none. A key that fits nothing is an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from linnet.errors import WeightsError

Layout = Literal["original", "peft", "diffusers", "kohya", "videox-fun", "ai-toolkit", "diffusion-pipe"]
Shape = tuple[int, ...]

ORIGINAL = "diffusion_model."
PEFT = "base_model.model."
DIFFUSERS = "transformer."
KOHYA, VIDEOX = "lora_unet_", "lora_unet__"
# In front of a module's dotted name, as the programs' own wrappers nest.
DOTTED = (
    "",
    ORIGINAL,
    DIFFUSERS,
    "model.",
    f"model.{ORIGINAL}",
    PEFT,
    f"{PEFT}{ORIGINAL}",
    f"{PEFT}{DIFFUSERS}",
    f"{PEFT}model.",
)
FLAT = (KOHYA, VIDEOX, "lora_transformer_", "lycoris_")  # in front of a name with underscores for dots

# Parts of names in diffusers' Wan transformer, in the order in which they are replaced.
IN_DIFFUSERS = (
    (r"(?<![^.])self_attn\.([qkv])$", r"attn1.to_\1"),
    (r"(?<![^.])cross_attn\.([qkv])$", r"attn2.to_\1"),
    (r"(?<![^.])self_attn\.o$", "attn1.to_out.0"),
    (r"(?<![^.])cross_attn\.o$", "attn2.to_out.0"),
    (r"(?<![^.])self_attn\.(norm_[qk])$", r"attn1.\1"),
    (r"(?<![^.])cross_attn\.(norm_[qk])$", r"attn2.\1"),
    (r"(?<![^.])ffn\.0$", "ffn.net.0.proj"),
    (r"(?<![^.])ffn\.2$", "ffn.net.2"),
    (r"^text_embedding\.0$", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2$", "condition_embedder.text_embedder.linear_2"),
    (r"^time_embedding\.0$", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2$", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^head\.head$", "proj_out"),
)

# What a tensor is of its module: down, up, up_bias (of PEFT's lora_B), alpha, dora_scale, diff, diff_bias,
# diff_modulation, and LoKr's w1, w1_a, w1_b, w2, w2_a, w2_b, t2.
Role = str
ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # the name that PEFT gives one of several
SUFFIXES: dict[str, Role] = {
    rf"(?:lora_A|lora_down|lora\.down){ADAPTER}\.weight": "down",
    rf"(?:lora_B|lora_up|lora\.up){ADAPTER}\.weight": "up",
    rf"lora_B{ADAPTER}\.bias": "up_bias",
    r"alpha": "alpha",
    rf"(?:dora_scale|magnitude|lora_magnitude_vector{ADAPTER}(?:\.weight)?|dora_layer\.weight)": "dora_scale",
    r"diff": "diff",
    r"diff_b": "diff_bias",
    r"diff_m": "diff_modulation",
    **{rf"lokr_{name}{ADAPTER}": name for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
SUFFIX = re.compile("|".join(rf"(\.{pattern}$)" for pattern in SUFFIXES))
# Of musubi-tuner: one for the whole file.
FLAGS = frozenset({"use_rslora_flag", "use_dora_flag"})


class Spelling(NamedTuple):
    """A module as a file writes it: behind `prefix`, by diffusers' name or its own."""

    module: str
    prefix: str
    name: str


@dataclass(kw_only=True)
class Keys:
    """The tensors of a file: for each module what they are of it, and the file's flags."""

    modules: dict[str, dict[Role, str]] = field(default_factory=dict)
    prefixes: set[str] = field(default_factory=set)
    spelled: dict[str, str] = field(
        default_factory=dict
    )  # each module as the file names it, behind the prefix
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """As far as names tell: "ai-toolkit" and "diffusion-pipe" are the original one without alphas."""
        if any(prefix.startswith(PEFT) for prefix in self.prefixes):
            return "peft"
        if VIDEOX in self.prefixes:
            return "videox-fun"
        if self.prefixes.intersection(FLAT):
            return "kohya"
        if DIFFUSERS in self.prefixes or any(module != name for module, name in self.spelled.items()):
            return "diffusers"
        return "original"


def read_keys(keys: Iterable[str], parameters: Iterable[str], path: Path) -> Keys:
    """What each key of a file is, for a model of these parameters. WeightsError names the first that is nothing."""
    known, keys_of_file = spellings(modules_of(parameters)), Keys()
    for key in keys:
        if key in FLAGS:
            keys_of_file.flags[key] = key
            continue
        match = SUFFIX.search(key)
        spelling = known.get(key[: match.start()]) if match else None
        if match is None or spelling is None:
            raise unknown_key(path, key)
        role = list(SUFFIXES.values())[(match.lastindex or 1) - 1]
        of_module = keys_of_file.modules.setdefault(spelling.module, {})
        if role in of_module:
            problem = f'has two tensors for one thing: "{of_module[role]}" and "{key}"'
            raise WeightsError("lora", path, problem, "remove one of them")
        of_module[role] = key
        keys_of_file.prefixes.add(spelling.prefix)
        keys_of_file.spelled[spelling.module] = spelling.name
    if not keys_of_file.modules:
        raise WeightsError("lora", path, "holds no tensors", "use a LoRA's file")
    return keys_of_file


def unknown_key(path: Path, key: str) -> WeightsError:
    problem = f'has tensor "{key}", which is of nothing in this model'
    return WeightsError("lora", path, problem, "use a LoRA that was trained on the chosen model")


def modules_of(parameters: Iterable[str]) -> list[str]:
    """Names of the modules that own these parameters, each once."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in parameters if "." in name))


def spellings(modules: Sequence[str]) -> dict[str, Spelling]:
    """Every way to write each module. What could be two modules is none."""
    known: dict[str, Spelling] = {}
    ambiguous: set[str] = set()
    for spelled, spelling in every_spelling(modules):
        if known.setdefault(spelled, spelling).module != spelling.module:
            ambiguous.add(spelled)
    return {spelled: spelling for spelled, spelling in known.items() if spelled not in ambiguous}


def every_spelling(modules: Sequence[str]) -> Iterator[tuple[str, Spelling]]:
    for module in modules:
        for name in dict.fromkeys((module, name_in_diffusers(module))):
            for prefix in DOTTED:
                yield prefix + name, Spelling(module, prefix, name)
            for prefix in FLAT:
                yield prefix + name.replace(".", "_"), Spelling(module, prefix, name)


def name_in_diffusers(module: str) -> str:
    for pattern, name in IN_DIFFUSERS:
        module = re.sub(pattern, name, module)
    return module


# --- writing ----------------------------------------------------------------------------------------------------------

PREFIX: dict[Layout, str] = {
    "original": ORIGINAL,
    "peft": PEFT,
    "diffusers": DIFFUSERS,
    "kohya": KOHYA,
    "videox-fun": VIDEOX,
    "ai-toolkit": ORIGINAL,
    "diffusion-pipe": ORIGINAL,
}
LAYOUTS = tuple(PREFIX)
WITH_ALPHA: frozenset[Layout] = frozenset({"original", "kohya", "videox-fun"})
IN_A_CONFIG: frozenset[Layout] = frozenset({"peft", "diffusers"})  # where the alphas are
FOLDERS: frozenset[Layout] = frozenset({"peft", "diffusion-pipe"})
LOW_RANK_ONLY: frozenset[Layout] = frozenset({"peft", "diffusers", "diffusion-pipe"})

WRITTEN: dict[Role, str] = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "alpha": "alpha",
    "dora_scale": "dora_scale",
    "diff": "diff",
    "diff_bias": "diff_b",
    "diff_modulation": "diff_m",
    "w1": "lokr_w1",
    "w2": "lokr_w2",
}
AS_IN_PEFT: dict[Role, str] = {
    "down": "lora_A.weight",
    "up": "lora_B.weight",
    "dora_scale": "lora_magnitude_vector",
}


def key_of(layout: Layout, module: str, role: Role) -> str:
    """What the layout calls a module's tensor."""
    suffix = WRITTEN[role] if layout in WITH_ALPHA else AS_IN_PEFT.get(role, WRITTEN[role])
    if layout == "ai-toolkit" and role == "dora_scale":
        suffix = "magnitude"
    return f"{PREFIX[layout]}{name_in(layout, module)}.{suffix}"


def name_in(layout: Layout, module: str) -> str:
    if layout == "diffusers":
        return name_in_diffusers(module)
    return module.replace(".", "_") if layout in ("kohya", "videox-fun") else module


# --- shapes -----------------------------------------------------------------------------------------------------------


def check_shapes(
    keys: Keys, shapes: Mapping[str, Shape], parameters: Mapping[str, Shape], path: Path
) -> None:
    """WeightsError for the first tensor that does not fit the model; `shapes` are those of the file's tensors."""
    for module, roles in keys.modules.items():
        check_roles(module, roles, path)
        for role, key in roles.items():
            wanted = wanted_shape(module, role, roles, shapes, parameters, path)
            if wanted is not None and not fits(shapes[key], wanted):
                problem = f'has tensor "{key}" of shape {list(shapes[key])}, which should be {list(wanted)}'
                raise WeightsError("lora", path, problem, "use a LoRA that was trained on the chosen model")


def fits(shape: Shape, wanted: Shape) -> bool:
    """Sides of 1 do not count: alphas and lengths are written with and without."""
    return shape == wanted or [side for side in shape if side > 1] == [side for side in wanted if side > 1]


TOGETHER: tuple[tuple[Role, Role], ...] = (("down", "up"), ("w1_a", "w1_b"), ("w2_a", "w2_b"))


def check_roles(module: str, roles: Mapping[Role, str], path: Path) -> None:
    """What has no meaning without another tensor of the module."""

    def lacks(key: str, what: str) -> WeightsError:
        return WeightsError("lora", path, f'has tensor "{key}" and lacks {what}', "fetch the file again")

    for first, second in TOGETHER:
        for own, other in ((first, second), (second, first)):
            if own in roles and other not in roles:
                raise lacks(roles[own], f"the one that belongs to it ({other})")
    kronecker = [role for role in roles if role.startswith(("w1", "w2", "t2"))]
    for side in ("w1", "w2"):
        if kronecker and not any(role.startswith(side) for role in kronecker):
            raise lacks(roles[kronecker[0]], f"lokr_{side} of {module}")
    if not kronecker and not {"down", "diff"}.intersection(roles):
        for role in ("alpha", "dora_scale", "up_bias"):
            if role in roles:
                raise lacks(roles[role], f"what it belongs to of {module}")


def wanted_shape(
    module: str,
    role: Role,
    roles: Mapping[Role, str],
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, Shape],
    path: Path,
) -> Shape | None:
    """None where others decide: LoKr's factors, whose product is checked."""

    def of(parameter: str) -> Shape:
        shape = parameters.get(f"{module}.{parameter}")
        if shape is None:
            raise unknown_key(path, roles[role])
        return shape

    if role == "alpha":
        return ()
    if role == "diff_modulation":
        return of("modulation")
    if role in ("diff_bias", "up_bias"):
        return of("bias")
    weight = of("weight")
    if role == "diff":
        return weight
    if role == "dora_scale":
        if len(shapes[roles[role]]) == 2 and shapes[roles[role]][0] == 1 != weight[0]:
            problem = (
                f'has tensor "{roles[role]}", which scales inputs; linnet reads DoRA that scales outputs'
            )
            raise WeightsError("lora", path, problem, "train it with lengths of outputs (wd_on_output)")
        return weight[:1]
    if role == "down":
        return (shapes[roles["down"]][0], *weight[1:]) if shapes[roles["down"]] else (1, *weight[1:])
    if role == "up":
        return weight[0], shapes[roles["down"]][0] if shapes[roles["down"]] else 1
    if role in ("w1", "w1_a"):
        return kronecker_shape(roles, shapes, weight, role)
    return None


def kronecker_shape(
    roles: Mapping[Role, str], shapes: Mapping[str, Shape], weight: Shape, role: Role
) -> Shape:
    """That which the first factor, or its first part, has to have beside the second for the weight."""
    second = factor_shape("w2", roles, shapes)
    inward = 1
    for side in weight[1:]:
        inward *= side
    kernel = 1
    for side in second[2:]:
        kernel *= side
    rows, columns = weight[0] // max(1, second[0]), inward // max(1, second[1] * kernel)
    if rows * second[0] != weight[0] or columns * second[1] * kernel != inward:
        return (0, 0)
    first = factor_shape("w1", roles, shapes)
    own = shapes[roles[role]]
    if first == (rows, columns):
        return own
    return (rows, columns) if role == "w1" else (rows, own[-1] if own else 1)


def factor_shape(side: Literal["w1", "w2"], roles: Mapping[Role, str], shapes: Mapping[str, Shape]) -> Shape:
    """Of one of LoKr's two factors, which a file holds whole, as a product, or, of a convolution, with a core `t2`."""
    if side in roles:
        return shapes[roles[side]]
    first, second = shapes[roles[f"{side}_a"]], shapes[roles[f"{side}_b"]]
    if side == "w2" and "t2" in roles:
        return (first[-1], second[-1], *shapes[roles["t2"]][2:])
    return (first[0], second[-1]) if len(first) == len(second) == 2 else (0, 0)
