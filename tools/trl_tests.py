"""TRL's own tests of its trainers, with the mixin before them: ``python tools/trl_tests.py CHECKOUT [ARGUMENTS]``.

CHECKOUT is TRL's source at the version that is installed. Its tests load tiny models and a data set from the hub; small
ones of the same names are made here, so that nothing is downloaded. Each test runs with TRL's trainers as they are and
with the mixin's, and what passes with the first has to pass with the second: where a test gives no KL options, the
sequence KL by K1, in TRL's own unit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
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

ON_CPU = """
import transformers

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


def outcomes(folder: Path, arguments: list[str], *, mixed: bool) -> dict[str, str]:
    """What became of every test: passed, failed or skipped."""
    report = folder / f"{mixed}.xml"
    plugin = ["-p", "trl_on_cpu", *(["-p", "trl_swapped"] if mixed else [])]
    files = [str(folder / "tests" / name) for name in FILES]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--rootdir",
        str(folder),
        f"--junitxml={report}",
        *plugin,
        *arguments,
    ]
    paths = os.pathsep.join([str(folder), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, *files], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        kind = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = kind
    return found


def main() -> int:
    """Run both, and say what only the mixin fails."""
    checkout, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_hub(folder)
        # Alone, or the checkout's package would come before the installed one.
        shutil.copytree(checkout / "tests", folder / "tests")
        (folder / "trl_on_cpu.py").write_text(ON_CPU)
        (folder / "trl_swapped.py").write_text(PLUGIN)
        stock = outcomes(folder, arguments, mixed=False)
        ours = outcomes(folder, arguments, mixed=True)
    passed = [test for test, outcome in stock.items() if outcome == "passed"]
    broken = [test for test in passed if ours.get(test) != "passed"]
    passing, failing, skipped = (sum(x == kind for x in stock.values()) for kind in ("passed", "failed", "skipped"))
    print(
        f"TRL's trainers as they are: {passing} tests pass, {failing} fail, {skipped} are skipped (nothing "
        f"here stands in for a vision model); with the mixin {len(passed) - len(broken)} of the {len(passed)} pass"
    )
    for test in broken:
        print(f"  only with the mixin: {test}")
    return 1 if broken or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
