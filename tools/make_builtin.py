"""Makes the models `builtin:base` and `builtin:tuned`, and prompts for them, from the grammar in corpus.py.

    python tools/make_builtin.py [--output DIR] [--seed N] [--steps-scale X]

Stories from the grammar train a byte-level BPE tokenizer of 512 tokens and a Llama of 0.2 million parameters
(base). Reinforcement learning then makes its stories more cheerful, under a penalty on the KL divergence from
the base (tuned). Everything runs on the CPU from one seed, and takes about four minutes.
"""

import argparse
import copy
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from corpus import cheer, exchange, opening, story
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

# The types of transformers are partial.
hf: Any = transformers

BOS, EOS, PAD = 0, 1, 2
SPECIAL_TOKENS = ["<s>", "</s>", "<pad>"]
VOCABULARY = 512
CONTEXT = 256
MAX_NEW_TOKENS = 48
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

PRETRAINING_STEPS = 1000
PRETRAINING_BATCH = 64
CHATS_EVERY = 8
PRETRAINING_RATE = 1e-2

TUNING_STEPS = 260
TUNING_PROMPTS = 16
SAMPLES_PER_PROMPT = 4
TUNING_RATE = 5e-4
OPENING_TOKENS = range(3, 11)
CHEER_LIMIT = 3
KL_WEIGHT = 0.2

PROMPT_WORDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 2, 3, 4, 5, 6, 7, 8, 10)
REPORT_SAMPLES = 20


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    tokenizer = train_tokenizer([story(rng) for _ in range(20_000)])
    base = new_model()
    print(f"base: {base.num_parameters():,} parameters", flush=True)
    pretrain(base, tokenizer, rng, max(1, round(PRETRAINING_STEPS * options.steps_scale)))
    tuned = copy.deepcopy(base)
    tune(tuned, base, tokenizer, rng, generator, max(1, round(TUNING_STEPS * options.steps_scale)))

    prompts = list(dict.fromkeys(opening(rng, words) for words in PROMPT_WORDS))
    save(options.output, tokenizer, prompts, {"base": base, "tuned": tuned})
    report(base, tuned, tokenizer, prompts, generator)


def parse_options() -> argparse.Namespace:
    default = Path(__file__).resolve().parents[1] / "src" / "kullback" / "models" / "builtin"
    parser = argparse.ArgumentParser(description="Make the built-in pair of models.")
    parser.add_argument("--output", type=Path, default=default, help="folder for base/, tuned/ and prompts.txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies the training steps")
    return parser.parse_args()


def train_tokenizer(texts: Sequence[str]) -> Any:
    backend: Any = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model() -> Any:
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = hf.LlamaForCausalLM(config)
    model.generation_config = hf.GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    return model


def story_rows(tokenizer: Any, rng: random.Random, count: int) -> list[list[int]]:
    return [[*ids, EOS] for ids in tokenizer([story(rng) for _ in range(count)])["input_ids"]]


def chat_rows(tokenizer: Any, rng: random.Random, count: int) -> list[list[int]]:
    chats = [exchange(rng) for _ in range(count)]
    return list(tokenizer.apply_chat_template(chats, return_dict=True)["input_ids"])


def pretrain(model: Any, tokenizer: Any, rng: random.Random, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAINING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps))
    start = time.monotonic()
    for step in range(steps):
        make_rows = chat_rows if step % CHATS_EVERY == 1 else story_rows
        rows = make_rows(tokenizer, rng, PRETRAINING_BATCH)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, PAD)
        logits = model(input_ids=ids[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        update(model, optimizer, loss)
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"base {step:5d}/{steps}  loss {loss:.3f}  {time.monotonic() - start:.0f} s", flush=True)


def warmup_cosine(step: int, steps: int) -> float:
    warmup = min(1.0, (step + 1) / (0.1 * steps))
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def update(model: Any, optimizer: torch.optim.Optimizer, loss: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@dataclass(frozen=True)
class Completions:
    """Sampled rows of prompt and completion, padded on the right."""

    ids: Tensor
    prompt_tokens: int

    @property
    def tokens(self) -> Tensor:
        """The completions' tokens."""
        return self.ids[:, self.prompt_tokens :]

    @property
    def mask(self) -> Tensor:
        """True at every completion token, the end-of-sequence token among them."""
        return self.tokens != PAD

    def log_probs(self, model: Any) -> Tensor:
        """The model's log probability of each completion token, zero at padding."""
        logits = model(input_ids=self.ids[:, :-1]).logits[:, self.prompt_tokens - 1 :]
        picked = logits.log_softmax(-1).gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.mask, picked, 0.0)

    def cheer(self, tokenizer: Any) -> Tensor:
        """Cheerful less gloomy words of each completion."""
        texts = tokenizer.batch_decode(self.tokens, skip_special_tokens=True)
        return torch.tensor([cheer(text) for text in texts], dtype=torch.float32)


@torch.no_grad()
def sample(model: Any, prompts: Tensor, generator: torch.Generator) -> Completions:
    """One completion at temperature 1 for each row of `prompts`, which all have the same length."""
    ids, step_input, cache = prompts, prompts, None
    ended = torch.zeros(len(prompts), 1, dtype=torch.bool)
    for _ in range(MAX_NEW_TOKENS):
        output = model(input_ids=step_input, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        drawn = torch.multinomial(output.logits[:, -1].softmax(-1), 1, generator=generator)
        step_input = torch.where(ended, PAD, drawn)
        ids = torch.cat([ids, step_input], 1)
        ended |= step_input == EOS
        if ended.all():
            break
    return Completions(ids, prompts.shape[1])


def tune(
    policy: Any, reference: Any, tokenizer: Any, rng: random.Random, generator: torch.Generator, steps: int
) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), lr=TUNING_RATE, weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps))
    start = time.monotonic()
    for step in range(steps):
        rows = story_rows(tokenizer, rng, TUNING_PROMPTS)
        length = rng.choice(OPENING_TOKENS)
        prompts = torch.tensor([row[:length] for row in rows]).repeat_interleave(SAMPLES_PER_PROMPT, 0)
        completions = sample(policy, prompts, generator)
        log_probs = completions.log_probs(policy)
        with torch.no_grad():
            log_ratios = log_probs - completions.log_probs(reference)
        cheerfulness = completions.cheer(tokenizer)
        advantages = rloo_advantages(cheerfulness, log_ratios)
        update(policy, optimizer, -(advantages * log_probs).sum(1).mean())
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            numbers = f"cheer {cheerfulness.mean():5.2f}  KL {log_ratios.sum(1).mean():5.2f}"
            print(f"tuned {step:4d}/{steps}  {numbers}  {time.monotonic() - start:.0f} s", flush=True)


def rloo_advantages(cheerfulness: Tensor, log_ratios: Tensor) -> Tensor:
    """Reward-to-go of each token, less the mean of the same prompt's other samples at that position."""
    to_go = log_ratios.flip(1).cumsum(1).flip(1)
    rewards = cheerfulness.clamp(-CHEER_LIMIT, CHEER_LIMIT).unsqueeze(1) - KL_WEIGHT * to_go
    groups = rewards.view(-1, SAMPLES_PER_PROMPT, rewards.shape[1])
    others = (groups.sum(1, keepdim=True) - groups) / (SAMPLES_PER_PROMPT - 1)
    return (groups - others).flatten(0, 1)


def save(output: Path, tokenizer: Any, prompts: Sequence[str], checkpoints: dict[str, Any]) -> None:
    for name, model in checkpoints.items():
        model.save_pretrained(output / name)
        tokenizer.save_pretrained(output / name, save_jinja_files=False)
        # Transformers 5 writes a class name that version 4 lacks, and reads the older name too.
        settings = output / name / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    (output / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")


def report(base: Any, tuned: Any, tokenizer: Any, prompts: Sequence[str], generator: torch.Generator) -> None:
    for name, model in (("base", base), ("tuned", tuned)):
        cheers, kls = [], []
        for prompt in prompts:
            ids = torch.tensor(tokenizer([prompt] * REPORT_SAMPLES)["input_ids"])
            completions = sample(model, ids, generator)
            with torch.no_grad():
                log_ratios = completions.log_probs(model) - completions.log_probs(base)
            cheers.append(completions.cheer(tokenizer))
            kls.append(log_ratios.sum(1))
        print(f"{name}: cheer {torch.cat(cheers).mean():.2f}, KL from base {torch.cat(kls).mean():.2f} nats")


if __name__ == "__main__":
    main()
