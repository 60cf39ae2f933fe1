"""Weights: a published folder, single files and the Hub's cache load strictly; anything odd is named."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import WeightsError
from linnet.models.quantised import quantise
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.weights import load, staging, store
from linnet.weights.files import fingerprint, read_config, read_header
from linnet.weights.load import config_as, load_into, read_latent_scale

LINUM = CATALOG["linum-v2-360p"]
CONFIG = TransformerConfig(dim=16, ffn_dim=32, num_heads=2, num_layers=2, text_len=8, text_dim=12)
Edit = Callable[[dict[str, Tensor]], object]


def transformer() -> Transformer:
    return Transformer(CONFIG)


def text_encoder() -> nn.Module:
    return nn.ModuleDict({"shared": nn.Embedding(5, 4), "encoder": nn.Linear(4, 4)})


def random_state(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in module.state_dict().items()
    }


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


def published_tensors() -> dict[str, Tensor]:
    scales = {"video_data_scale": torch.arange(16.0), "video_data_bias": torch.ones(16)}
    legacy = {"image_data_scale": torch.zeros(16), "image_data_bias": torch.zeros(16)}
    return {f"model.{k}": v for k, v in random_state(transformer()).items()} | scales | legacy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository as published, with tiny tensors and the text encoder in two shards."""
    root = tmp_path / "linum"
    write(root / "dit/360p.safetensors", published_tensors())
    write(root / "vae/vae.safetensors", {"conv1.weight": torch.ones(2, 2)})
    text = random_state(text_encoder())
    names = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(text)}
    for shard in sorted(set(names.values())):
        write(root / "t5/text_encoder" / shard, {k: v for k, v in text.items() if names[k] == shard})
    (root / "t5/text_encoder/model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (root / "t5/tokenizer").mkdir()
    (root / "t5/tokenizer/spiece.model").write_bytes(b"tokens")
    return root


def test_a_published_folder_loads_whole_and_exactly(folder: Path) -> None:
    files = store.resolve(LINUM, weights=folder)
    model = load_into(transformer, files.transformer, prefix="model.")
    for name, tensor in random_state(transformer()).items():
        assert torch.equal(model.state_dict()[name], tensor), name
    text = load_into(text_encoder, files.text_encoder)
    assert torch.equal(text.state_dict()["encoder.bias"], random_state(text_encoder())["encoder.bias"])
    scale, bias = read_latent_scale(files.transformer) or (None, None)
    assert scale is not None
    assert bias is not None
    assert scale.tolist() == list(range(16))
    assert bias.tolist() == [1.0] * 16
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert files.bytes == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_single_files_take_the_place_of_the_folder_s(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "mine.safetensors", {"conv1.weight": torch.zeros(2, 2)})
    assert store.resolve(LINUM, weights=folder, vae=other).autoencoder == other
    alone = store.resolve(
        LINUM,
        transformer=folder / "dit/360p.safetensors",
        vae=other,
        text_encoder=folder / "t5/text_encoder",
        tokenizer=folder / "t5/tokenizer",
    )
    assert alone.autoencoder == other
    with pytest.raises(
        WeightsError, match=r'model "linum-v2-360p": its vae is not .*linnet pull linum-v2-360p'
    ):
        store.resolve(
            LINUM,
            transformer=folder / "dit/360p.safetensors",
            text_encoder=folder / "t5/text_encoder",
            tokenizer=folder / "t5/tokenizer",
        )


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_bfloat16_is_for_matrix_products_alone(tmp_path: Path, stored: torch.dtype) -> None:
    state = random_state(transformer())
    path = write(tmp_path / "a.safetensors", {name: tensor.to(stored) for name, tensor in state.items()})
    loaded = load_into(transformer, path, dtype=torch.bfloat16).state_dict()
    low = {name for name, tensor in loaded.items() if tensor.dtype == torch.bfloat16}
    assert {"blocks.0.self_attn.q.weight", "blocks.1.ffn.2.bias", "patch_embedding.weight"} <= low
    assert {"head.head.weight", "text_embedding.0.weight"} <= low
    high = ("norm", "modulation", "time_")
    assert {name for name in state if any(word in name for word in high)} == set(state) - low
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name].to(stored).to(tensor.dtype)), name
    whole = load_into(transformer, path).state_dict()
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}


def test_few_bytes_of_a_file_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "a.safetensors", {name: t.bfloat16() for name, t in random_state(transformer()).items()}
    )
    monkeypatch.setattr(load, "BATCH", 4096)
    opened = []

    def watch(*args: object, **kwargs: object) -> object:
        opened.append(args)
        return safe_open(*args, **kwargs)

    safe_open = load.safe_open
    monkeypatch.setattr(load, "safe_open", watch)
    loaded = load_into(transformer, path, dtype=torch.bfloat16)
    assert len(opened) > path.stat().st_size / 2 / 4096
    assert torch.equal(loaded.state_dict()["head.head.bias"], load_file(path)["head.head.bias"])


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 4])
def test_what_threads_read_in_pieces_is_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, threads: int
) -> None:
    monkeypatch.setattr(staging, "PIECE", 64)
    monkeypatch.setattr(staging, "THREADS", threads)
    state = {name: tensor.to(stored) for name, tensor in random_state(transformer()).items()}
    path = write(tmp_path / "a.safetensors", state)
    wanted = torch.float32 if stored == torch.bfloat16 else torch.bfloat16
    loaded = load_into(transformer, path, dtype=wanted).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32, wanted}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name
    narrow = load_into(transformer, path, quantise="int8").state_dict()
    weight, _ = quantise(state["blocks.1.ffn.2.weight"], torch.int8)
    assert torch.equal(narrow["blocks.1.ffn.2.weight"], weight)


def test_a_file_that_is_cut_after_it_was_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: tensor.half() for name, tensor in random_state(transformer()).items()}  # none is mapped
    path, found = write(tmp_path / "a.safetensors", state), staging.stored

    def cut(*given: Any) -> Any:
        places = found(*given)
        os.truncate(path, path.stat().st_size - 100)
        return places

    monkeypatch.setattr(load, "stored", cut)
    with pytest.raises(
        WeightsError, match=r"a.safetensors.*: is cut short, since it was opened; fetch it again"
    ):
        load_into(transformer, path, dtype=torch.bfloat16)


def test_a_disk_that_fails_is_named_and_the_other_tensors_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun = write(tmp_path / "a.safetensors", random_state(transformer())), []

    def fail(own: staging.Staging, *given: Any) -> Any:
        begun.append(given)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(staging.Staging, "read", fail)
    with pytest.raises(WeightsError, match=r"a.safetensors.*: cannot be read .*Input/output error"):
        load_into(transformer, path, dtype=torch.bfloat16)
    assert len(begun) < len(transformer().state_dict())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]


def lose(name: str) -> Edit:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: Tensor) -> Edit:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lose("model.blocks.1.ffn.0.bias"), 'lacks tensor "model.blocks.1.ffn.0.bias"; '),
        (
            put("model.blocks.2.modulation", torch.zeros(1)),
            'the unexpected tensor "model.blocks.2.modulation"; ',
        ),
        (put("audio_data_scale", torch.zeros(16)), 'the unexpected tensor "audio_data_scale"; '),
        (
            put("model.head.head.weight", torch.zeros(32, 16)),
            r'tensor "model.head.head.weight" has shape \[32, 16\] and should have \[64, 16\]; ',
        ),
        (
            put("model.head.head.weight", torch.zeros(64, 16, dtype=torch.float64)),
            'tensor "model.head.head.weight" is stored as F64; ',
        ),
    ],
)
def test_a_tensor_too_few_too_many_or_out_of_shape_is_named(tmp_path: Path, edit: Edit, problem: str) -> None:
    tensors = published_tensors()
    edit(tensors)
    path = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(WeightsError, match=rf'^weights ".*a.safetensors": .*{problem}'):
        load_into(transformer, path, prefix="model.")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.safetensors", random_state(text_encoder())) for i in range(2)]
    with pytest.raises(
        WeightsError, match=r'1.safetensors": holds tensor ".*", which 0.safetensors holds too'
    ):
        load_into(text_encoder, paths)


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -4000])
def test_a_truncated_file_is_refused_before_it_is_read(folder: Path, keep: int) -> None:
    path = folder / "dit/360p.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r'360p.safetensors": .*is cut short.*; fetch it again'):
        store.resolve(LINUM, weights=folder)
    with pytest.raises(WeightsError, match="is cut short"):
        load_into(transformer, path, prefix="model.")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"GGUF\x03" + bytes(200), "is a GGUF file, .*use a .safetensors"),
        (b"\x80\x02}q\x01.", "is a pickle"),
        (b"PK\x03\x04" + bytes(20) + b"archive/data.pkl" + bytes(99), "is a pickle"),
        (b"PK\x03\x04" + bytes(20) + b"model.safetensors" + bytes(99), "is a zip archive; unpack"),
        (b"\n <!DOCTYPE html>\n<html>", "is an HTML page; .*fetch"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "is an XML page"),
        (b'{"error": "Repository not found"}', "is JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.*git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(50), "is compressed by gzip"),
        (bytes(257) + b"ustar" + bytes(800), "is a tar archive"),
        (b"\x89HDF\r\n" + bytes(50), "is an HDF5 file"),
        (b"", "is empty"),
        (b"no weights at all, and nothing else", "is not a safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_a_file_of_another_format_is_told_by_its_name(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if "not a safetensors" in problem and name == "a.ckpt":
        problem = "is a pickle"  # by its name, which is all that is known
    with pytest.raises(WeightsError, match=rf'^weights ".*{name}": {problem}') as caught:
        read_header(path)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"_class_name": "LTXVideo", "dim": 8}, 'its config has "_class_name"'),
        ({"dim": 8}, 'its config lacks "ffn_dim"'),
        ({"dim": "8"}, 'its config says 8 of "dim"'),
        ({"dim": True}, 'its config says True of "dim"'),
        ({"num_layers": 10**9}, 'its config says 1000000000 of "num_layers"'),
        ({"num_heads": 0}, 'its config says 0 of "num_heads"'),
        ([1], "not a JSON object"),
        ("[" * 5000, "not a JSON object"),
    ],
)
def test_another_models_config_is_told_by_its_key(tmp_path: Path, config: Any, problem: str) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"config": text})
    with pytest.raises(WeightsError, match=problem):
        config_as(TransformerConfig, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("360p.safetensors", "linum-v2-360p"),
        ("Linum_v2-720p.int8.safetensors", "linum-v2-720p"),
        ("models--Linum-AI--linum-v2-720p/blob", "linum-v2-720p"),
        ("mine.safetensors", None),
        ("1360p.safetensors", None),
    ],
)
def test_a_transformer_of_another_model_is_told_by_its_name(
    tmp_path: Path, name: str, model: str | None
) -> None:
    found = store.model_of(tmp_path / name)
    assert (found and found.name) == model
    for spec in (LINUM, CATALOG["linum-v2-720p"]):
        if model in (None, spec.name):
            store.check_own(spec, tmp_path / name)
        else:
            with pytest.raises(WeightsError, match=rf"is {model}'s by its name.*`model={model}`"):
                store.check_own(spec, tmp_path / name)


def test_bytes_after_the_last_tensor_are_refused(folder: Path) -> None:
    path = folder / "dit/360p.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="is damaged"):
        store.resolve(LINUM, weights=folder)


class Bomb:
    """What a malicious pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_under_any_name_and_never_opened(tmp_path: Path, name: str, zipped: bool) -> None:
    path, mark = tmp_path / name, tmp_path / "exploded"
    if zipped:
        torch.save({"a": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(WeightsError, match=r"is a pickle, .*; use a .safetensors file"):
        load_into(text_encoder, path)
    assert not mark.exists()


def test_a_folder_with_only_pickles_says_so(folder: Path) -> None:
    text = folder / "t5/text_encoder"
    for file in text.iterdir():
        file.unlink()
    (text / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"model.safetensors\": is missing .*pytorch_model.bin, a pickle"):
        store.resolve(LINUM, weights=folder)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(WeightsError, match="is a Git LFS pointer"):
        load_into(text_encoder, path)


@pytest.mark.parametrize(
    "part",
    [
        "dit/360p.safetensors",
        "vae/vae.safetensors",
        "t5/text_encoder/model-00002-of-00002.safetensors",
        "t5/tokenizer/spiece.model",
    ],
)
def test_a_missing_file_is_named_with_the_remedy(folder: Path, part: str) -> None:
    (folder / part).unlink()
    name = "tokenizer.json" if "tokenizer" in part else Path(part).name
    with pytest.raises(
        WeightsError, match=rf'^weights ".*{name}": is missing; run `linnet pull linum-v2-360p`'
    ):
        store.resolve(LINUM, weights=folder)


@pytest.mark.parametrize("index", ["{}", "not json", '{"weight_map": {"a": "../../secret.safetensors"}}'])
def test_a_damaged_index_is_refused(folder: Path, index: str) -> None:
    (folder / "t5/text_encoder/model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"index.json\": (is not an index|names a file outside)"):
        store.resolve(LINUM, weights=folder)
    assert store.missing_parts(LINUM, folder) == ("t5/text_encoder",)


def test_the_hub_s_cache_is_found_and_the_last_pull_comes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert store.locate(LINUM) is None
    assert store.default_model()[0] is SEEDLING
    assert store.availability(LINUM).missing == tuple(store.layout(LINUM).values())
    with pytest.raises(WeightsError, match=r"not on this machine; run `linnet pull linum-v2-360p`"):
        store.resolve(LINUM)

    repository = tmp_path / "hub/models--Linum-AI--linum-v2-360p"
    (repository / "snapshots").mkdir(parents=True)
    for commit in ("aaa", "bbb"):
        (repository / "snapshots" / commit).symlink_to(folder)
    (repository / "refs").mkdir()
    for commit in ("aaa", "bbb"):
        (repository / "refs/main").write_text(commit)
        files = store.locate(LINUM)
        assert files is not None
        assert files.transformer == repository / "snapshots" / commit / "dit/360p.safetensors"
        assert store.resolve(LINUM) == files
    assert store.default_model()[0] is LINUM
    assert store.model_in(folder) is LINUM
    whole = store.availability(LINUM)
    assert (whole.missing, whole.bytes) == ((), files.bytes)
    (folder / "vae/vae.safetensors").unlink()
    assert store.locate(LINUM) is None
    assert store.availability(LINUM).missing == ("vae/vae.safetensors",)


@pytest.mark.parametrize(
    "settings",
    [{}, {"HF_HOME": "~/a"}, {"HF_HUB_CACHE": "$HOME/b", "HF_HOME": "c"}, {"XDG_CACHE_HOME": "/d"}],
)
def test_the_cache_is_where_huggingface_hub_puts_it(settings: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    code = (
        "from linnet.weights.store import hub_cache; from huggingface_hub.constants import HF_HUB_CACHE;"
        "import pathlib; assert hub_cache() == pathlib.Path(HF_HUB_CACHE), (hub_cache(), HF_HUB_CACHE)"
    )
    subprocess.run([sys.executable, "-c", code], env=clean | settings, check=True)


def test_the_store_imports_no_torch() -> None:
    code = "import sys, linnet.weights.store; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fingerprint_tells_weights_apart_and_not_their_names(folder: Path, tmp_path: Path) -> None:
    path = folder / "dit/360p.safetensors"
    first = fingerprint([path])
    assert fingerprint([path.rename(tmp_path / "renamed.safetensors")]) == first
    tensors = published_tensors()
    tensors["model.head.head.bias"][3] += 1e-6
    assert fingerprint([write(path, tensors)]) != first
    assert len(fingerprint([folder / "t5/text_encoder"])) == 64


def test_a_large_file_s_fingerprint_sees_header_size_and_spread_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.weights.files.WHOLE", 1000)
    monkeypatch.setattr("linnet.weights.files.BLOCK", 64)
    path = write(tmp_path / "a.safetensors", {"a": torch.zeros(100_000)})
    content = path.read_bytes()
    prints = {fingerprint([path])}
    for place in (9, (len(content) - 64) * 100 // 255, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        prints.add(fingerprint([path]))
    path.write_bytes(content + b"\0")
    assert len({*prints, fingerprint([path])}) == 5


def test_the_config_inside_a_file(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1)}
    assert read_config(write(tmp_path / "a.safetensors", tensors)) is None
    assert read_config(write(tmp_path / "b.safetensors", tensors, {"config": '{"dim": 8}'})) == {"dim": 8}
    with pytest.raises(WeightsError, match="not a JSON object"):
        read_config(write(tmp_path / "c.safetensors", tensors, {"config": "8"}))
