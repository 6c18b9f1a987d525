"""Models as they lie on a disk or in memory: what is whole is read, what is not is named in one sentence."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import kullback as kb
from kullback.errors import InputError, KullbackError, MissingPackageError, ModelError
from kullback.models import LanguageModel, load
from kullback.models.folders import Place
from kullback.models.shipped import BUILTIN
from kullback.models.splits import KEY, split_as_said, split_named, unknown_split

SMALL: dict[str, Any] = {"prompts": ["One", "The small dog"], "samples": 2, "max_new_tokens": 6}
Tensors = dict[str, torch.Tensor]


def value(found: kb.Comparison) -> float:
    return found.rows[0].per_sequence.value


@pytest.fixture(scope="module")
def want() -> float:
    """Of the built-in pair."""
    return value(kb.compare(**SMALL))


def edited(
    tmp_path: Path, change: Callable[[Tensors], Tensors] = dict, *, name: str = "tuned", **config: object
) -> Path:
    """A copy of a built-in model with other tensors or other lines in its config."""
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN / name, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return folder


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, object], str]] = {
    "renamed": (lambda w: {f"base_model.model.{k}": v for k, v in w.items()}, {}, r"lacks the weights .*embed_tokens"),
    "dropped": (
        lambda w: {k: v for k, v in w.items() if k != "model.layers.1.mlp.up_proj.weight"},
        {},
        r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight:",
    ),
    "added": (lambda w: {**w, "other.weight": torch.ones(2)}, {}, r"does not know, other\.weight:"),
    "nan": (
        lambda w: {k: v * torch.nan if k == "model.norm.weight" else v for k, v in w.items()},
        {},
        r"nan or infinite numbers in the weight model\.norm\.weight",
    ),
    "infinite": (
        lambda w: {k: v / 0 if k == "model.norm.weight" else v for k, v in w.items()},
        {},
        "nan or infinite numbers",
    ),
    "wider": (dict, {"hidden_size": 128}, "of another shape than its config says"),
    "fewer words": (dict, {"vocab_size": 500}, r"another shape .*embed_tokens"),
    "deeper": (dict, {"num_hidden_layers": 6}, r"lacks the weights model\.layers\.4"),
    "shallower": (dict, {"num_hidden_layers": 3}, r"does not know, model\.layers\.3"),
    "no such architecture": (dict, {"model_type": "nosuch"}, "could not be loaded"),
    "no causal one": (dict, {"model_type": "t5"}, "could not be loaded"),
    "no number": (dict, {"num_attention_heads": "two"}, "could not be loaded"),
    "no such activation": (dict, {"hidden_act": "nosuch"}, "could not be loaded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_checkpoints_that_are_not_what_they_say(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    change, config, words = BROKEN[name]
    folder = edited(tmp_path, change, **config)
    with pytest.raises(ModelError, match=words) as caught:
        kb.compare(str(folder), "builtin:base", **SMALL)
    assert "\n" not in str(caught.value)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"x" * 100, b"{", b"[]"])
def test_files_that_are_cut_or_corrupt(tmp_path: Path, file: str, content: bytes) -> None:
    folder = edited(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_weights_that_are_cut(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder))


def test_shards_are_one_model_and_a_missing_one_is_named(tmp_path: Path, want: float) -> None:
    model = load("builtin:tuned")
    model.model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    model.tokenizer.save_pretrained(tmp_path / "sharded")
    shards = sorted((tmp_path / "sharded").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert value(kb.compare(str(tmp_path / "sharded"), "builtin:base", **SMALL)) == want
    shards[0].unlink()
    with pytest.raises(ModelError):
        load(str(tmp_path / "sharded"))


def test_a_missing_tokenizer_is_the_other_models_and_that_is_said(tmp_path: Path, want: float) -> None:
    folder = edited(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    for pair in ((str(folder), "builtin:base"), ("builtin:base", str(folder))):
        found = kb.compare(*pair, **SMALL)
        assert f"{folder} has no tokenizer of its own: that of builtin:base is used for both" in found.notes
    assert value(kb.compare(str(folder), "builtin:base", **SMALL)) == want
    text = kb.compare_text(str(folder), "builtin:base", ["The small dog went to the lake."])
    assert any("no tokenizer of its own" in note for note in text.notes)
    with pytest.raises(ModelError, match="no tokenizer, and there is none to take"):
        kb.compare(str(folder), str(folder), **SMALL)
    with pytest.raises(ModelError, match="load it with tokenizer="):
        load(str(folder))
    assert load(str(folder), tokenizer="builtin:base").encode("One") == load("builtin:base").encode("One")


def test_a_trainers_folder_is_refused_with_its_latest_checkpoint(tmp_path: Path) -> None:
    for step in ("9", "10", "best"):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"the latest is .*checkpoint-10$"):
        load(str(tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["builtin:", "builtin:..", "builtin:../..", "builtin:base/", "builtin:base/../tuned", ""]
)
def test_names_that_leave_the_built_in_models(name: str) -> None:
    with pytest.raises(ModelError, match="builtin:base"):
        load(name)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "cpux", "", "cuda:-1", "xla"])
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(ModelError, match=f"device={device!r} came"):
        load("builtin:base", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_without_cuda() -> None:
    with pytest.raises(ModelError, match="device='cuda' came, but this machine"):
        kb.compare(device="cuda", **SMALL)


@pytest.mark.parametrize("dtype", ["load", "int8", "float8_e4m3fn", "float12", "complex64", ""])
def test_dtypes_in_which_no_model_runs(dtype: str) -> None:
    with pytest.raises(ModelError, match=f"dtype={dtype!r} came, but a dtype is float32"):
        load("builtin:base", dtype=dtype)


def test_device_and_dtype_that_were_used_are_among_the_settings() -> None:
    base = load("builtin:base", dtype=torch.bfloat16)
    settings = kb.compare("builtin:tuned", base, **SMALL).settings
    assert (settings["dtype"], settings["reference_dtype"]) == ("float32", "bfloat16")
    assert (settings["device"], settings["reference_device"]) == ("cpu", "cpu")


def test_model_objects_are_compared_as_their_folders_are_and_stay_as_they_were(want: float) -> None:
    tuned, base = (transformers.AutoModelForCausalLM.from_pretrained(BUILTIN / name) for name in ("tuned", "base"))
    tuned.config.attention_dropout = 0.5
    tuned.train()
    tuned.model.layers[0].eval()
    found = kb.compare(tuned, base, **SMALL)
    assert value(found) == value(kb.compare(str(BUILTIN / "tuned"), str(BUILTIN / "base"), **SMALL))
    assert found.policy.startswith("LlamaForCausalLM (")
    assert tuned.training
    assert not tuned.model.layers[0].training
    nameless = transformers.AutoModelForCausalLM.from_pretrained(BUILTIN / "tuned")
    nameless.config._name_or_path = ""
    assert value(kb.compare(nameless, "builtin:base", **SMALL)) == want
    with pytest.raises(ModelError, match="none to take from the other model"):
        kb.compare(nameless, nameless, **SMALL)


@pytest.mark.parametrize("thing", [42, None, torch.nn.Linear(2, 2), object()])
def test_what_is_no_model(thing: Any) -> None:
    with pytest.raises(KullbackError, match="came"):
        kb.compare(thing, "builtin:base", **SMALL)


def test_messages_for_a_model_without_a_template_and_messages_that_are_none() -> None:
    base = load("builtin:base")
    base.tokenizer.chat_template = "{{ raise_exception('no system role here') }}"
    with pytest.raises(InputError, match=r"cannot read these messages \(no system role here\)"):
        base.encode([{"role": "system", "content": "hello"}])
    base.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="the tokenizer of builtin:base has no chat template"):
        base.encode([{"role": "user", "content": "hello"}])


def test_a_model_that_draws_from_another_law_than_it_scores_under_is_refused() -> None:
    base = load("builtin:base")

    class Crooked(LanguageModel):
        def logprobs(self, *args: Any, **options: Any) -> Any:
            raise AssertionError

        def sample(self, prompts: Any, sampling: Any, **options: Any) -> Any:
            drawn = super().sample(prompts, sampling, **options)
            return [kb.models.Completion(c.tokens, c.logprobs - 0.5, c.finish) for c in drawn]

    with pytest.raises(ModelError, match=r"0\.5 nats a token from those of scoring"):
        kb.compare(Crooked("crooked", base.model, base.tokenizer), base, **SMALL)


def test_a_gguf_file_without_the_package_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    try:
        import gguf  # noqa: F401
    except ImportError:
        with pytest.raises(MissingPackageError, match="gguf is needed"):
            load(str(tmp_path / "model.gguf"))
    else:
        with pytest.raises(ModelError, match="could not be loaded"):
            load(str(tmp_path / "model.gguf"))


def adapted(tmp_path: Path) -> Any:
    """A peft model over the built-in base, saved in a folder too."""
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(BUILTIN / "base")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.3)
        model.save_pretrained(tmp_path / "adapter")
    return model


def test_adapters_are_compared_with_their_base(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    found = kb.compare(str(tmp_path / "adapter"), "builtin:base", **SMALL)
    assert np.mean([rollout.column("token_kl").sum() for rollout in found.rollouts]) > 0.01  # 0 without its effect
    assert any("is an adapter of" in note for note in found.notes)
    assert value(kb.compare(model, "builtin:base", **SMALL)) == pytest.approx(value(found), abs=1e-4)
    merged = model.merge_and_unload()
    assert value(kb.compare(merged, "builtin:base", **SMALL)) == pytest.approx(value(found), abs=1e-3)


def test_the_base_in_which_an_adapter_is_active_is_refused(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    with pytest.raises(ModelError, match="the base of a peft model"):
        kb.compare(model, model.get_base_model(), **SMALL)


def test_adapters_that_are_not_whole(tmp_path: Path) -> None:
    adapted(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file)
    with pytest.raises(ModelError, match="is an adapter that lacks the weights"):
        load(str(tmp_path / "adapter"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": "/no/such/base"})
    )
    with pytest.raises(ModelError, match="is an adapter of /no/such/base, and there is no such folder"):
        load(str(tmp_path / "adapter"))


def header_with(tmp_path: Path, name: str) -> Place:
    entry = KEY + len(name).to_bytes(8, "little") + name.encode()
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(20) + entry + bytes(40))
    return Place("gguf", str(tmp_path), "m.gguf")


@pytest.mark.parametrize(("name", "unknown"), [("smollm", None), ("default", None), ("odd", "odd")])
def test_a_gguf_file_says_how_its_text_is_split(tmp_path: Path, name: str, unknown: str | None) -> None:
    place = header_with(tmp_path, name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUILTIN / "base")
    before = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 2024")
    tokenizer = split_as_said(tokenizer, place)
    after = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 2024")
    assert [word for word, _ in before] == ["in", "Ġ2024"]
    assert [word for word, _ in after] == (["in", "Ġ", "2", "0", "2", "4"] if name == "smollm" else ["in", "Ġ2024"])
    assert unknown_split(tokenizer, place) == unknown


@pytest.mark.parametrize(("name", "tokens"), [("gpt-2", ["a", "b", "c"]), ("llama-bpe", ["abc"])])
def test_a_gguf_file_says_whether_words_come_before_merges(tmp_path: Path, name: str, tokens: list[str]) -> None:
    words = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "c": 2, "abc": 3}, merges=[])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words))
    assert split_as_said(tokenizer, header_with(tmp_path, name)).tokenize("abc") == tokens


def test_a_gguf_file_that_does_not_say_how_its_text_is_split(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert split_named(Place("gguf", str(tmp_path), "m.gguf")) == ""
