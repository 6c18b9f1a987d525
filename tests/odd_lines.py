"""Odd command lines by kind, each with its status and words that must be said; and the files that they name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

GOOD: dict[str, str | bytes] = {
    "plain.txt": "a dog\n\nthe cat\n",
    "crlf.txt": "a dog\r\nthe cat\r\n",
    "bom.txt": b"\xef\xbb\xbfa dog\nthe cat\n",
    "utf16.txt": "a dog\nthe cat\n".encode("utf-16"),
    "utf32.txt": "a dog\nthe cat\n".encode("utf-32"),
    "packed.txt.gz": gzip.compress(b"a dog\nthe cat\n"),
    "separator.txt": "a dog\u2028ran\nthe cat\n",
    "rows.jsonl": '{"prompt": "a dog"}\n{"prompt": "the cat"}\n',
    "LOUD.JSONL": '{"prompt": "a dog"}\n{"prompt": "the cat"}\n',
    "rows.ndjson": '{"prompt": "a dog"}\n{"prompt": "the cat"}\n',
    "separator.jsonl": '{"prompt": "a dog\u2028ran"}\n{"prompt": "the\u0085cat"}\n',
    "bom.jsonl": b'\xef\xbb\xbf{"prompt": "a dog"}\n{"prompt": "the cat"}\n',
    "packed.jsonl.gz": gzip.compress(b'{"prompt": "a dog"}\n"the cat"\n'),
    "list.json": '[{"prompt": "a dog"}, {"prompt": "the cat"}]',
    "texts.json": '["a dog", "the cat"]',
    "columns.json": '{"prompt": ["a dog", "the cat"], "id": [1, 2]}',
    "pandas.json": '{"prompt": {"0": "a dog", "1": "the cat"}, "id": {"0": 1, "1": 2}}',
    "within.json": '{"version": "1", "data": [{"prompt": "a dog"}, {"prompt": "the cat"}]}',
    "lines.json": '{"prompt": "a dog"}\n{"prompt": "the cat"}\n',
    "rows.csv": 'id,prompt\n1,"a dog, and\nthe cat"\n2,the cat\n',
    "semicolon.csv": "id;prompt\n1;a dog\n2;the cat\n",
    "tabs.csv": "id\tprompt\n1\ta dog\n2\tthe cat\n",
    "rows.tsv": "id\tprompt\n1\ta dog\n2\tthe cat\n",
    "question.jsonl": '{"question": "why?", "answer": "so"}\n{"question": "how?", "answer": "so"}\n',
    "problem.jsonl": '{"problem": "1 + 1?", "solution": "2"}\n{"problem": "2 + 2?", "solution": "4"}\n',
    "alpaca.json": json.dumps(
        [
            {"instruction": "Say", "input": "it", "output": "it", "text": "all of it"},
            {"instruction": "Go", "input": "", "output": "x", "text": "y"},
        ]
    ),
    "sharegpt.json": json.dumps(
        [{"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]}] * 2
    ),
    "parts.jsonl": '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a dog"}]}]}\n' * 2,
    "packed.csv": "messages\n" + '"[{""role"": ""user"", ""content"": ""a dog""}]"\n' * 2,
    "bidi.txt": "a \u202edog\x1b]52;c;aGk=\x07\nthe \x9b2Jcat\n",
}
"""Each holds two prompts."""

BAD: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty.txt": ("", ("holds no prompt",)),
    "blank.txt": (" \n\n", ("holds no prompt",)),
    "latin.txt": ("caf\xe9\n".encode("latin-1"), ("not text in UTF-8", "0xe9 in line 1", "iconv")),
    "unmarked.txt": ("a dog\n".encode("utf-16-le"), ("null bytes", "iconv -f UTF-16LE")),
    "prompts.docx": ("PK", ("ends in .docx", ".jsonl", "convert it")),
    "prompts": ("a dog\n", ("has no ending", ".txt")),
    "torn.txt.gz": (gzip.compress(b"a dog\n" * 99)[:-9], ("cannot be unpacked",)),
    "oops.jsonl": ('{"prompt": "a"}\n{oops\n', ("line 2 of", "is not JSON", "one object a line")),
    "oops.json": ('[{"prompt": "a"}', ("oops.json is not JSON",)),
    "number.json": ("5", ("holds a whole number (5)", "a list of rows")),
    "uneven.json": ('{"prompt": ["a", "b"], "id": [1]}', ("different lengths (prompt 2, id 1)",)),
    "nested.json": ("[" * 100_000, ("nested too deeply",)),
    "number.jsonl": ('{"prompt": 5}\n', ("line 1 of", "column prompt,", "a whole number (5)")),
    "null.jsonl": ('{"prompt": "a"}\n{"prompt": null}\n', ("line 2 of", "nothing (null)")),
    "strings.jsonl": ('{"prompt": ["a", "b"]}\n', ("holds a list", "a list of chat messages")),
    "blank.jsonl": ('{"prompt": "a"}\n{"prompt": " "}\n', ("line 2 of", "is empty")),
    "other.jsonl": ('{"x": "a"}\n', ("has the columns x", "--prompt-column")),
    "flat.jsonl": ('{"role": "user", "content": "a"}\n', ("is one chat message", "wrap each conversation")),
    "roleless.jsonl": ('{"messages": [{"content": "a"}]}\n', ("message 1 has the keys content", "a role such as user")),
    "image.jsonl": (
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}\n',
        ("part 1 is 'image_url'", "only text parts"),
    ),
    "silent.jsonl": ('{"messages": [{"role": "user", "content": null}]}\n', ("message 1 (content)", "nothing (null)")),
    "martian.jsonl": ('{"conversations": [{"from": "martian", "value": "a"}]}\n', ("from 'martian'", "human")),
    "answers.jsonl": ('{"messages": [{"role": "assistant", "content": "a"}]}\n', ("answers of the assistant alone",)),
    "nobody.jsonl": ('{"messages": []}\n', ("is empty",)),
    "half.jsonl": ('{"prompt": "a \\ud83d"}\n', ("half a character", "\\ud83d")),
    "ragged.csv": ("id,prompt\n1,a,b\n", ("row 1 of", "has 3 fields", "names 2")),
    "twice.csv": ("prompt,prompt\na,b\n", ("'prompt' as the name of several columns",)),
    "anonymous.json": (
        '[{"conversations": [{"value": "a"}]}]',
        ("column conversations, message 1 has the keys value",),
    ),
    "quotes.csv": ('id,prompt\n1,"a\n', ("is not CSV", "check its quotes")),
    "headless.csv": ("a dog\nthe cat\n", ("has the columns a dog",)),
    "fake.parquet": ("no", ("is not a Parquet file",)),
}

Case = tuple[str, int, tuple[str, ...]]
"""What follows ``kullback``, the status, and words that must be shown."""

ONE = "compare --prompts {tmp}/plain.txt --samples 1 --max-new-tokens 2"

READ: list[Case] = [
    *(
        (f"compare --samples 1 --max-new-tokens 2 --prompts {{tmp}}/{name}", 0, ("2 sequences of 2 prompts",))
        for name in GOOD
    ),
    *(
        (f"compare --samples 1 --max-new-tokens 2 --prompts {{tmp}}/{name}", 2, words)
        for name, (_, words) in BAD.items()
    ),
    ("compare --prompts {tmp}/none.txt", 2, ("none.txt cannot be read", "No such file")),
    ("compare --prompts {tmp}/none.jsonl", 2, ("none.jsonl cannot be read", "No such file")),
    ("compare --prompts nobody/nothing", 2, ("nobody/nothing", "data set")),
    ("compare --prompts /dev/zero", 2, ("/dev/zero",)),
    (f"{ONE} --prompts {{tmp}}/columns.json --prompt-column id", 2, ("column id,", "a whole number (1)")),
    (f"{ONE} --prompts {{tmp}}/columns.json --prompt-column x", 2, ("no row has a column x", "prompt, id")),
    (f"{ONE} --prompts {{tmp}}/question.jsonl --prompt-column answer", 0, ("2 prompts",)),
    (
        f"{ONE} --prompts {{tmp}}/question.jsonl",
        0,
        ("those of the column question", "2 of 2 prompts went through the chat template"),
    ),
    (f"{ONE} --prompts {{tmp}}/sharegpt.json", 0, ("went through the chat template of builtin:tuned",)),
    ("compare --text {tmp}/plain.txt", 0, ("same most likely token",)),
    ("compare --text {tmp}/list.json --text-column prompt", 0, ("perplexity",)),
    ("compare --text {tmp}/list.json", 2, ("has the columns prompt", "--text-column")),
    ("compare --text {tmp}/parts.jsonl --text-column messages", 2, ("holds chat messages",)),
    ("compare --text {tmp}/latin.txt", 2, ("not text in UTF-8",)),
    ("compare --text {tmp}/prompts.docx", 2, ("ends in .docx",)),
    ("compare --text {tmp}/empty.txt", 2, ("holds no prompt or text",)),
]

TOGETHER: list[Case] = [
    *(
        (f"compare --text {{tmp}}/plain.txt {option}", 2, (option.split()[0], "with --text", "leave it out"))
        for option in (
            "--prompts {tmp}/plain.txt",
            "--prompt-column x",
            "--samples 4",
            "--max-new-tokens 4",
            "--temperature 0.5",
            "--top-p 0.5",
            "--top-k 5",
            "--process-reference",
            "--estimator k1",
            "--both",
            "--seed 3",
        )
    ),
    ("compare --text {tmp}/plain.txt --both --samples 3", 2, ("--samples and --both", "leave them out")),
    ("compare --context-length 64", 2, ("--context-length", "without --text")),
    ("compare --text-column x", 2, ("--text-column", "without --text")),
    ("compare --prompt-column x", 2, ("without --prompts",)),
    ("compare --overwrite", 2, ("without --output",)),
    ("compare ./mine", 2, ("./mine came without what it is to be compared with", "kullback compare ./mine REFERENCE")),
    ("compare builtin:base", 2, ("compare builtin:base REFERENCE",)),
    ("lab gaussian --overwrite", 2, ("without --output",)),
    ("lab plan {tmp}/r.parquet --samples 4", 2, ("--samples", "a file of rollouts")),
    ("lab plan {tmp}/r.parquet --relative 0.1 --stderr 0.1", 2, ("two ways to say the same",)),
    ("compare --undecided fail", 2, ("--undecided", "without --max-kl")),
    ("compare --these-prompts", 2, ("--these-prompts", "without --max-kl")),
    ("compare --max-kl 1 --these-prompts --samples 1", 2, ("--samples 1", "two samples of a prompt")),
    ("compare --max-kl 1 --undecided maybe", 2, ("'maybe'", "'pass', 'fail'")),
    ("compare --text {tmp}/plain.txt --max-kl 1/sequence", 2, ("nats a token with --text",)),
    ("compare --text {tmp}/plain.txt --max-kl 1 --these-prompts", 2, ("has no prompts", "leave it out")),
    ("compare --max-kl 1 --estimator k2 --estimator forward_k1", 2, ("no --estimator is of this KL", "rao_blackwell")),
    (f"{ONE} --max-kl 1e6 --estimator k2 --estimator k1", 0, ("below: KL(policy‖reference)", "by k1")),
    (f"{ONE} --max-kl 1e6/token --undecided fail", 0, ("below", "nats/token by rao_blackwell")),
    (f"{ONE} --max-kl 1e-9 --undecided fail", 1, ("undecided", "would decide, where 2 came")),
    (f"{ONE} --estimator renyi_2:token", 2, ("renyi_2", "at the level sequence")),
    (f"{ONE} --estimator renyi_2", 0, ("renyi_2",)),
    (f"{ONE} --estimator k9", 2, ("choose one of k1",)),
    (f"{ONE} --estimator k1:", 2, ("a level is token or sequence",)),
    (f"{ONE} --device cpu:7", 2, ("a machine has one CPU as a device",)),
    (f"{ONE} --estimator k1:word", 2, ("a level is token or sequence",)),
    (f"{ONE} --estimator :token", 2, ("choose one of k1",)),
    *(
        (f"{line} {option}{mark}", 2, (f"a blank word came after {option} on the command line", "write a value"))
        for line, option in (
            (ONE, "--estimator"),
            (ONE, "--output"),
            ("compare", "--prompts"),
            ("compare", "--text"),
            ("estimate {tmp}/r.parquet", "--output"),
            ("watch {tmp} --once", "--state"),
            ("lab gaussian", "--output"),
        )
        for mark in (" ''", "=", " ' '")
    ),
    ("watch ''", 2, ("a blank word came on the command line",)),
    ("compare '' builtin:base", 2, ("a blank word came on the command line",)),
]

NUMBERS: list[Case] = [
    *(
        (f"compare {option} {value}", 2, (option,))
        for option in ("--samples", "--max-new-tokens")
        for value in ("0", "-1", "99999999999999999999")
    ),
    ("compare --top-k -1", 2, ("--top-k -1",)),
    ("compare --top-k 99999999999999999999", 2, ("--top-k",)),
    ("compare --temperature nan", 2, ("temperature=nan",)),
    ("compare --temperature -1", 2, ("temperature=-1",)),
    ("compare --temperature 0", 2, ("use top_k=1",)),
    ("compare --top-p nan", 2, ("top_p=nan",)),
    ("compare --top-p 1.0000001", 2, ("top_p=1.0000001",)),
    (f"{ONE} --top-p 1e-320", 0, ("2 sequences of 2 prompts",)),
    ("compare --top-p 0", 2, ("top_p=0",)),
    ("compare --top-p inf", 2, ("top_p=inf",)),
    *(
        (f"compare --max-kl {limit}", 2, (f"--max-kl {limit} came", "nats"))
        for limit in ("nan", "inf", "-1", "much", "/token", "0x1/token")
    ),
    ("compare --max-kl 1/word", 2, ("sequence or token",)),
    ("compare --max-kl 1/", 2, ("sequence or token",)),
    ("compare --samples nan", 2, ("--samples",)),
    ("compare --batch-size 0", 2, ("'auto' or at least 1",)),
    ("compare --batch-size -1", 2, ("'auto' or at least 1",)),
    ("compare --batch-size 1e9", 2, ("'auto' or at least 1",)),
    ("compare --batch-size 99999999999999999999", 2, ("'auto' or at least 1",)),
    ("compare --samples 1000000", 2, ("20,000,000 sequences", "lower samples")),
    ("compare --text {tmp}/plain.txt --context-length 0", 2, ("--context-length 0",)),
    ("compare --text {tmp}/plain.txt --context-length 99999999999", 2, ("--context-length",)),
    *(
        (f"lab {command} {option} {value}", 2, (option, "is needed"))
        for command, option, values in (
            ("gaussian", "--shift", ("nan", "inf")),
            ("gaussian", "--scale", ("nan", "inf", "0", "-1", "1e-300")),
            ("gaussian", "--samples", ("0", "1", "99999999999999999999")),
            ("categorical", "--distance", ("nan", "0", "1e300")),
            ("categorical", "--vocab", ("0", "1", "99999999999")),
            ("categorical", "--samples", ("0", "-5")),
            ("categorical", "--worlds", ("0", "99999999999")),
            ("language", "--horizon", ("0", "99999999999")),
            ("language", "--vocab", ("1", "99999999999")),
            ("gradients", "--staleness", ("nan", "-inf", "0")),
            ("lambda", "-n", ("0", "1", "99999999999")),
            ("training", "--beta", ("nan", "0", "-1")),
            ("training", "--seeds", ("0", "99999999999")),
            ("plan", "--relative", ("nan", "0", "inf")),
            ("plan", "--stderr", ("nan", "-1")),
            ("plan", "--read-cost", ("nan", "-1", "inf")),
            ("plan", "--most-prompts", ("0", "-1")),
        )
        for value in values
    ),
    ("lab lambda --policy nan,0.5", 2, ("positive probabilities",)),
    ("lab lambda --policy 0.5,x", 2, ("probabilities with commas",)),
    ("claims --seed -1", 2, ("--seed -1",)),
]

PLACES: list[Case] = [
    (f"{ONE} --output {{tmp}}/plain.txt", 2, ("choose another --output",)),
    (f"{ONE} --output {{tmp}}/plain.txt/x", 2, ("choose another --output",)),
    (f"{ONE} --output {{tmp}}/taken", 2, ("estimate.json is a folder",)),
    (f"{ONE} --output {{tmp}}/taken --overwrite", 2, ("estimate.json is a folder",)),
    (f"{ONE} --output {{tmp}}/killed", 2, ("rollouts.parquet.part of a run that was killed", "read_rollouts")),
    (f"{ONE} --output {{tmp}}/killed --overwrite", 0, ("2 sequences",)),
    (f"{ONE} --output {{tmp}}/held", 2, ("another run is writing to",)),
    (f"{ONE} --output {{tmp}}/new/folder", 0, ("2 sequences",)),
    ("lab gaussian --samples 100 --output {tmp}/plain.txt", 2, ("choose another --output",)),
    ("lab plan {tmp}/none.parquet", 2, ("none.parquet",)),
    ("audit {tmp}/none.py:f", 2, ("none.py",)),
    ("audit {tmp}/plain.txt:f", 2, ("plain.txt is a file of another kind", "file.py:function")),
    ("audit {tmp}/taken:f", 2, ("taken is a folder", "file.py:function")),
    ("audit {tmp}/none:f", 2, ("none is not there", "file.py:function")),
    ("estimate {tmp}/readme.md", 2, ("it begins with '# A dog", "neither JSON, YAML, Parquet")),
    ("estimate {tmp}/picture.png", 2, ("it begins with '�PNG", "neither JSON, YAML, Parquet")),
    ("audit math:sqrt --output {tmp}/x.doc", 2, (".md, .html, .json",)),
    ("claims nothing", 2, ("there is no claim 'nothing'",)),
]

LINES = [*READ, *TOGETHER, *NUMBERS, *PLACES]


def written(folder: Path) -> Path:
    """All the files that the lines name."""
    for name, content in [*GOOD.items(), *((name, content) for name, (content, _) in BAD.items())]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "readme.md").write_text("# A dog\n\nwas here\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    (folder / "taken" / "estimate.json").mkdir(parents=True)
    (folder / "held").mkdir()
    (folder / "killed").mkdir()
    (folder / "killed" / "rollouts.parquet.part").write_bytes(b"")
    return folder
