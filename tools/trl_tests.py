"""TRL's own tests of its trainers, with the mixin before them: ``python tools/trl_tests.py CHECKOUT KEPT [ARGUMENTS]``.

CHECKOUT is TRL's source at the version that is installed. Its tests load tiny models and a data set from the hub; small
ones of the same names are made here, so that nothing is downloaded. What passes with TRL's trainers as they are has to
pass with the mixin's: where a test gives no KL options, the sequence KL by K1, in TRL's own unit. All tests run with
the mixin, and those that do not pass run again without it.

KEPT is a folder where what became of each test is written when it ends: a run that was stopped goes on from there, and
several at once, with ``--part 1/2`` and ``--part 2/2``, share the work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("test_grpo_trainer.py", "test_rloo_trainer.py")
HUB = "trl-internal-testing"
NAMES = {
    "tiny-Qwen2ForCausalLM-2.5": "qwen2",
    "tiny-Qwen3ForCausalLM": "qwen3",
    "tiny-LlamaForCausalLM-3.2": "llama",
    "tiny-MistralForCausalLM-0.2": "mistral",
    "tiny-Gemma2ForCausalLM": "gemma2",
    "tiny-Qwen2ForSequenceClassification-2.5": "qwen2",
    "tiny-Qwen3ForSequenceClassification": "qwen3",
    "tiny-LlamaForSequenceClassification-3.2": "llama",
}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 2,
    "eos_token_id": 1,
    "bos_token_id": 0,
}

RECORDED = """
import os
from pathlib import Path

KEPT = Path(os.environ["TRL_TESTS_KEPT"])
worst = {}


def known():
    return {line.split("\\t")[0] for file in KEPT.glob("*.tsv") for line in file.read_text().splitlines()}


def pytest_addoption(parser):
    parser.addoption("--part", default="1/1")
    parser.addoption("--only", default="")


def pytest_collection_modifyitems(config, items):
    part, parts = map(int, config.getoption("--part").split("/"))
    done, only = known(), config.getoption("--only")
    wanted = [item for item in items if not only or item.nodeid in Path(only).read_text().splitlines()]
    items[:] = [item for item in wanted[part - 1 :: parts] if item.nodeid not in done]


def pytest_runtest_logreport(report):
    ranks = ["passed", "skipped", "failed"]
    worst[report.nodeid] = max(worst.get(report.nodeid, "passed"), report.outcome, key=ranks.index)
    if report.when == "teardown":
        with (KEPT / f"{os.getpid()}.tsv").open("a") as file:
            file.write(f"{report.nodeid}\\t{worst.pop(report.nodeid)}\\n")
"""

ON_CPU = """
import importlib

import transformers

# The package is lazy, and does not hold its modules as attributes.
utils = importlib.import_module("trl.import_utils")


def missing(name):
    # Tests of another version ask for packages that this one has no name for: they are not here.
    if name.startswith("is_") and name.endswith("_available"):
        return lambda *_: False
    raise AttributeError(name)


utils.__getattr__ = missing

made = transformers.TrainingArguments.__post_init__


def on_cpu(self):
    self.use_cpu = True  # TRL asks for bfloat16, which transformers gives a CPU only if it is asked for too
    made(self)


transformers.TrainingArguments.__post_init__ = on_cpu
"""

PLUGIN = """
import kullback as kb
import trl
from kullback.integrations.trl import KLMixin

WANTED = {"kl_objective": kb.REVERSE_KL, "kl_beta_unit": "token"}


def swapped(base):
    class Mixed(KLMixin, base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**WANTED, **kwargs})

    Mixed.__name__ = Mixed.__qualname__ = base.__name__
    return Mixed


trl.GRPOTrainer, trl.RLOOTrainer = swapped(trl.GRPOTrainer), swapped(trl.RLOOTrainer)
"""


def make_hub(folder: Path) -> None:
    """Models and data of the names that the tests load, in a folder that stands for the hub."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "src/kullback/models/builtin/base")
    for name, kind in NAMES.items():
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=1, **SIZES)
        made = AutoModelForSequenceClassification if "Classification" in name else AutoModelForCausalLM
        made.from_config(config).save_pretrained(folder / HUB / name)
        tokenizer.save_pretrained(folder / HUB / name)
    make_data(folder / HUB / "zen")


def make_data(folder: Path) -> None:
    """Prompts, as text and as messages, in the configurations that the tests name."""
    from datasets import Dataset

    texts = [
        f"{who} went to the {where}"
        for who in ("Ben", "Emma", "Tom", "Anna")
        for where in ("sea", "town", "mill", "hill")
    ]
    forms: dict[str, list[dict[str, object]]] = {
        "standard_prompt_only": [{"prompt": text} for text in texts],
        "conversational_prompt_only": [{"prompt": [{"role": "user", "content": text}]} for text in texts],
    }
    lines = ["---", "configs:"]
    for name, rows in forms.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, some in (("train", [*rows, rows[0]]), ("test", rows[:2])):
            path = folder / name / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(some).to_parquet(path)
            lines += [f"  - split: {split}", f"    path: {name}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---"]))


def run(folder: Path, kept: Path, arguments: list[str], *, mixed: bool) -> dict[str, str]:
    """What became of every test: passed, failed or skipped; those of `kept` do not run again."""
    kept.mkdir(parents=True, exist_ok=True)
    plugins = ["trl_on_cpu", "trl_recorded", *(["trl_swapped"] if mixed else [])]
    options = ["-q", "--rootdir", str(folder), "--tb=short", *(word for name in plugins for word in ("-p", name))]
    files = [str(folder / "tests" / name) for name in FILES]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")]),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TRL_TESTS_KEPT": str(kept),
    }
    with (kept / f"{os.getpid()}.txt").open("w") as said:
        command = [sys.executable, "-m", "pytest", *options, *arguments, *files]
        subprocess.run(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False)
    lines = [line for file in sorted(kept.glob("*.tsv")) for line in file.read_text().splitlines()]
    return dict(line.split("\t") for line in lines)


def main() -> int:
    """Run with the mixin, what does not pass without it too, and say what only the mixin fails."""
    checkout, kept, arguments = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_hub(folder)
        # Alone, or the checkout's package would come before the installed one.
        shutil.copytree(checkout / "tests", folder / "tests")
        for module, text in (("on_cpu", ON_CPU), ("swapped", PLUGIN), ("recorded", RECORDED)):
            (folder / f"trl_{module}.py").write_text(text)
        ours = run(folder, kept / "mixin", arguments, mixed=True)
        (folder / "again.txt").write_text("\n".join(test for test, found in ours.items() if found != "passed"))
        stock = run(folder, kept / "stock", [*arguments, f"--only={folder / 'again.txt'}"], mixed=False)
    broken = [test for test, found in stock.items() if found == "passed" and ours.get(test) != "passed"]
    passed, failing, skipped = (
        sum(found == "passed" for found in ours.values()),
        sum(found == "failed" for found in stock.values()),
        sum(found == "skipped" for found in stock.values()),
    )
    print(
        f"{passed} of TRL's tests pass with the mixin; {len(broken)} pass only without it; {failing} fail and "
        f"{skipped} are skipped without it as well (nothing here stands in for a vision model)"
    )
    for test in broken:
        print(f"  only with the mixin: {test}")
    return 1 if broken or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
