"""What servers return, read: the log-probs of what was drawn, and whether it is all there."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_records import (
    ECHO,
    FORMATS,
    LLAMA_NEW,
    LLAMA_OLD,
    OUTPUTS,
    RECORDS,
    SCORED,
    SGLANG,
    cassette,
    document,
    sglang_stream,
    stream,
)

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.rollouts import Metadata
from kullback.rollouts.readers.format import Format

ANSWERS: dict[str, tuple[str, float, int, str, bool, str]] = {
    # of the first rollout: format, sum of log-probs, counted tokens, finish, end token missing, law
    "chat": ("openai-chat", -1.875, 3, "end", True, "unknown"),
    "chat stream": ("openai-chat", -1.875, 3, "length", False, "unknown"),
    "completions": ("openai-completions", -1.875, 3, "length", False, "unknown"),
    "echo": ("openai-completions", -1.75, 2, "length", False, "raw"),
    "llama-cpp-python": ("openai-completions", -1.75, 2, "end", True, "raw"),
    "responses": ("openai-responses", -1.875, 3, "end", True, "raw"),
    "responses stream": ("openai-responses", -1.875 - 3e-7, 3, "end", True, "raw"),
    "cassette": ("cassette", -1.875, 3, "end", True, "raw"),
    "tgi": ("tgi", -1.875, 3, "end", False, "unknown"),
    "tgi stream": ("tgi", -1.75, 2, "length", False, "unknown"),
    "vllm triple": ("vllm", -1.875, 3, "end", False, "raw"),
    "vllm outputs": ("vllm", -1.875, 3, "end", False, "raw"),
    "vllm scored": ("vllm", -1.75, 2, "unknown", False, "raw"),
    "sglang": ("sglang", -1.875, 3, "end", False, "unknown"),
    "sglang stream": ("sglang", -1.875, 3, "unknown", False, "unknown"),
    "llama-server old": ("llama-server", float(np.log(0.75) + np.log(0.5)), 2, "end", True, "processed"),
    "llama-server new": ("llama-server", -1.75, 2, "length", False, "raw"),
}


def format_of(record: dict[str, Any]) -> Format:
    [found] = [one for one in FORMATS if one.recognises(record, Path("x"))]
    return found


def read(record: dict[str, Any]) -> list[kb.Rollout]:
    return list(format_of(record).rollouts(record))


def changed(record: dict[str, Any], *path: str | int, value: object) -> dict[str, Any]:
    """A copy with another value at a path."""
    whole = deepcopy(record)
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


@pytest.mark.parametrize("name", RECORDS)
def test_a_response_is_read(name: str) -> None:
    record, (format, total, counted, finish, missing, law) = RECORDS[name], ANSWERS[name]
    assert format_of(record).name == format
    first = read(record)[0]
    assert first.behavior_logprobs is not None
    assert first.behavior_logprobs[first.counted].sum() == pytest.approx(total, rel=1e-12)
    assert (int(first.counted.sum()), first.finish, first.missing_end) == (counted, finish, missing)
    assert format_of(record).metadata(record).law == {"behavior_logprobs": law}


def test_a_line_of_a_batch_is_its_response() -> None:
    line = {"id": "batch_1", "custom_id": "a", "response": {"status_code": 200, "body": RECORDS["chat"]}}
    assert read(line) == read(RECORDS["chat"])


def test_choices_are_samples_of_one_prompt() -> None:
    rollouts = read(RECORDS["completions"])
    assert [(one.prompt_id, one.sample) for one in rollouts] == [("cmpl-Ab3dEf", 0), ("cmpl-Ab3dEf", 1)]
    assert [one.sample for one in read(OUTPUTS)] == [0, 1]


def test_best_of_holds_the_other_sequences_too() -> None:
    other = {**RECORDS["tgi"]["details"], "generated_text": "Blue", "tokens": RECORDS["tgi"]["details"]["tokens"][:2]}
    rollouts = read(changed(RECORDS["tgi"], "details", "best_of_sequences", value=[other]))
    assert [(one.sample, one.length, one.text) for one in rollouts] == [(0, 3, "Red and"), (1, 2, "Blue")]


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("chat", [{"Red": -0.25, "Green": -2.0}, {" and": -1.5, " or": -0.75}, {" blue": -0.125, " black": -2.5}]),
        ("echo", [{}, {" and": -1.5}]),
        ("vllm triple", [{7: -0.25, 9: -2.0}, {9: -0.5, 8: -1.5}, {2: -0.125, 9: -4.0}]),
        ("sglang", [{7: -0.25, 9: -2.0}, {8: -1.5}, {}]),
        ("tgi", [{7: -0.25, 9: -4.0}, {8: -1.5, 9: -4.0}, {2: -0.125, 9: -4.0}]),
        ("llama-server new", [{9: -2.0}, {}]),
        ("responses", None),
    ],
)
def test_likely_words_stand_at_their_places(name: str, top: object) -> None:
    assert read(RECORDS[name])[0].top == top


@pytest.mark.parametrize("name", ["vllm triple", "vllm outputs", "sglang", "tgi"])
def test_ids_are_tokens(name: str) -> None:
    assert read(RECORDS[name])[0].tokens == [7, 8, 2]


@pytest.mark.parametrize("name", ["vllm outputs", "sglang", "tgi"])
def test_the_prompt_is_known_where_all_of_its_ids_are(name: str) -> None:
    assert read(RECORDS[name])[0].prompt_tokens == [4, 5]
    assert read(changed(SGLANG, "meta_info", "prompt_tokens", value=3))[0].prompt_tokens is None


def test_ids_that_vllm_writes_as_text_are_ids() -> None:
    record = changed(
        ECHO, "choices", 0, "logprobs", "tokens", value=["token_id:4", "token_id:5", "token_id:7", "token_id:8"]
    )
    record = changed(record, "choices", 0, "logprobs", "top_logprobs", value=None)
    assert read(record)[0].tokens == [7, 8]


def test_ids_in_a_list_of_their_own_are_of_the_tokens() -> None:
    record = changed(RECORDS["chat"], "choices", 0, "token_ids", value=[7, 8, 9])
    assert read(record)[0].tokens == [7, 8, 9]
    with pytest.raises(InputError, match="has 2 ids, but 3 tokens"):
        read(changed(record, "choices", 0, "token_ids", value=[7, 8]))


def test_texts_without_ids_are_known_again() -> None:
    whole, streamed = read(RECORDS["responses"])[0], read(RECORDS["responses stream"])[0]
    assert whole.tokens is None
    assert whole.extra["token_texts"] == streamed.extra["token_texts"]
    other = changed(RECORDS["chat"], "choices", 0, "logprobs", "content", 1, "bytes", value=[1])
    assert read(other)[0].extra["token_texts"] != whole.extra["token_texts"]


@pytest.mark.parametrize("cumulative", [True, False])
def test_chunks_hold_what_came_before_them_or_what_is_new(cumulative: bool) -> None:
    [rollout] = read(sglang_stream(cumulative=cumulative))
    assert (rollout.tokens, rollout.text) == ([7, 8, 2], "Red and")


def test_a_stream_keeps_the_digits_that_its_last_object_has_lost() -> None:
    numbers = read(RECORDS["responses stream"])[0].behavior_logprobs
    assert numbers is not None
    assert numbers.tolist() == [-0.2500001, -1.5000001, -0.1250001]


def test_a_cassette_of_a_stream_and_of_more_than_responses() -> None:
    text = (Path(__file__).parent / "data/dumps/servers/response.txt").read_text()
    bodies = [
        {"parsed_body": {"data": []}},
        {"body": {"string": text}},
        {"parsed_body": RECORDS["chat"]},
        {"body": "?"},
    ]
    streamed, chat = read(cassette(*bodies))
    assert streamed.behavior_logprobs is not None
    assert streamed.behavior_logprobs[0] == -0.2500001
    assert chat == read(RECORDS["chat"])[0]


# What was drawn and what was given.


def test_an_echo_that_does_not_say_where_the_prompt_ends_is_read_whole() -> None:
    record = {key: value for key, value in ECHO.items() if key != "usage"}
    [rollout] = read(record)
    assert rollout.counted.tolist() == [False, True, True, True]
    assert rollout.extra["echo"] == "prompt and completion"


@pytest.mark.parametrize(("written", "expected"), [(0, [-3.0, -0.25, -1.5]), (1, [-3.0, -0.25])])
def test_an_echo_with_nothing_drawn_is_a_prompt_that_was_scored(written: int, expected: list[float]) -> None:
    usage = {"prompt_tokens": 4 - written, "completion_tokens": written}
    [rollout] = read({**ECHO, "usage": usage})
    assert rollout.behavior_logprobs is not None
    assert rollout.behavior_logprobs[rollout.counted].tolist() == expected
    assert rollout.extra["scored"] == "prompt"


@pytest.mark.parametrize(
    ("own", "prompt", "written", "finish", "kept"),
    [
        ("cmpl-Ab", 2, 3, "stop", 2),  # the end token is counted and has no log-prob
        ("cmpl-2d1f0e1c-7a8b-4c3d-9e0f-123456789abc", 3, 2, "length", 2),  # a begin token is counted and not listed
    ],
)
def test_an_echo_ends_where_the_writers_counts_say(own: str, prompt: int, written: int, finish: str, kept: int) -> None:
    record = changed(
        {**ECHO, "id": own, "usage": {"prompt_tokens": prompt, "completion_tokens": written}},
        "choices",
        0,
        "finish_reason",
        value=finish,
    )
    assert read(record)[0].length == kept


def test_counts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="does not say where the echoed prompt ends"):
        read({**ECHO, "usage": {"prompt_tokens": 3, "completion_tokens": 3}})


def test_a_scored_prompt_needs_to_say_which_words_were_in_it() -> None:
    two = changed(SCORED, "prompt_logprobs", 1, value={"7": {"logprob": -0.25}, "9": {"logprob": -2.0}})
    with pytest.raises(InputError, match="return_token_ids=true"):
        read(two)
    [rollout] = read({**two, "prompt_token_ids": [4, 7, 8]})
    assert (rollout.tokens, rollout.counted.tolist()) == ([4, 7, 8], [False, True, True])


def test_sglang_without_output_is_a_scored_prompt() -> None:
    record = changed(SGLANG, "meta_info", "output_token_logprobs", value=[])
    [rollout] = read(changed(record, "meta_info", "output_top_logprobs", value=None))
    assert (rollout.tokens, rollout.extra["scored"]) == ([4, 5], "prompt")


# Laws, and what is not there.


def test_certain_tokens_are_of_a_law_after_filters() -> None:
    def law(numbers: list[float], special: bool = False) -> object:
        tokens = [
            {"id": 1, "text": "a", "logprob": x, "special": special and i == len(numbers) - 1}
            for i, x in enumerate(numbers)
        ]
        record = {"details": {"finish_reason": "length", "tokens": tokens}}
        return format_of(record).metadata(record).law["behavior_logprobs"]

    assert law([0.0, 0.0, -0.1]) == "processed"
    assert law([0.0, -0.2, -0.1]) == "unknown"
    assert law([-0.1, -0.2, 0.0], special=True) == "processed"


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"temperature": 0.7}, "unknown"),
        ({"top_p": 0.9}, "unknown"),
        ({"text": {"format": {"type": "json_schema"}}}, "unknown"),
        ({}, "raw"),
    ],
)
def test_a_response_is_raw_at_temperature_1_alone(change: dict[str, Any], law: str) -> None:
    record = {**document("response.json"), **change}
    assert format_of(record).metadata(record).law == {"behavior_logprobs": law}


@pytest.mark.parametrize(
    ("finish", "written", "missing"),
    [("stop", 4, True), ("stop", 3, True), ("length", 3, False), ("content_filter", 4, False)],
)
def test_an_end_token_without_log_prob_is_known(finish: str, written: int, missing: bool) -> None:
    record = changed(RECORDS["chat"], "choices", 0, "finish_reason", value=finish)
    assert read(changed(record, "usage", "completion_tokens", value=written))[0].missing_end is missing


def test_an_end_token_that_is_no_piece_of_the_text_is_there() -> None:
    end = {"token": "<|im_end|>", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    record = changed(RECORDS["chat"], "choices", 0, "logprobs", "content", 2, value=end)
    record = changed(record, "choices", 0, "message", "content", value="Red and")
    rollout = read(changed(record, "usage", "completion_tokens", value=3))[0]
    assert (rollout.finish, rollout.missing_end) == ("end", False)


def test_hidden_reasoning_is_not_taken_for_an_end_token() -> None:
    record = changed(RECORDS["chat"], "usage", "completion_tokens", value=104)
    record = changed(record, "usage", "completion_tokens_details", value={"reasoning_tokens": 100})
    assert read(record)[0].extra["tokens_without_logprob"] == 1


def test_a_drawn_word_that_its_list_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"drew ' or', which is not among the 2 words .* larger n_probs"):
        read(changed(LLAMA_OLD, "completion_probabilities", 1, "content", value=" or"))


def test_probabilities_after_sampling_are_turned_into_logs() -> None:
    one = {
        "id": 7,
        "token": "Red",
        "prob": 0.5,
        "top_probs": [{"id": 7, "token": "Red", "prob": 0.5}, {"id": 9, "token": "x", "prob": 0.0}],
    }
    record = {**LLAMA_NEW, "completion_probabilities": [one]}
    [rollout] = read(record)
    assert rollout.top == [{7: np.log(0.5)}]
    assert format_of(record).metadata(record) == Metadata(law={"behavior_logprobs": "processed"})


def test_two_words_of_one_text_and_words_without_mass_are_in_no_list() -> None:
    words = [
        {"token": word, "logprob": number, "bytes": None}
        for word, number in (("�", -1.0), ("�", -2.0), ("a", -9999.0), ("b", -3.0))
    ]
    record = changed(RECORDS["chat"], "choices", 0, "logprobs", "content", 0, "top_logprobs", value=words)
    top = read(record)[0].top
    assert top is not None
    assert top[0] == {"b": -3.0}


def test_a_stream_of_a_server_with_its_usage_is_one_response() -> None:
    record = stream("chat.txt")
    record["events"].append({"id": "x", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}})
    assert read(record)[0].text == "Red and blue"


WITHOUT: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "message": {"content": "Red"}, "logprobs": None}], "object": "chat.completion"},
    {"choices": [{"index": 0, "text": "Red"}], "object": "text_completion"},
    {"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Red"}]}]},
    {"custom_id": "a", "response": {"body": {"choices": [{"message": {"content": "Red"}}]}}},
    {"generated_text": "Red"},
    {"text": "Red", "meta_info": {"id": "a", "finish_reason": {"type": "stop"}}},
    {"content": "Red", "tokens_predicted": 3},
]


@pytest.mark.parametrize("record", WITHOUT, ids=str)
def test_a_response_without_log_probs_is_refused_with_how_to_ask(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(FileError, match=r"is server-text, .* ask again with logprobs=true"):
        kb.read_rollouts(tmp_path / "a.json")


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_is_of_one_format(tmp_path: Path, name: str) -> None:
    """Also among the formats of trainers; and a record is what its file holds."""
    record = RECORDS[name]
    if name == "cassette":
        path = tmp_path / "a.yaml"
        path.write_text(f"interactions: {json.dumps(record['interactions'])}\nversion: 1\n")
    elif "events" in record:
        path = tmp_path / "a.txt"
        path.write_text("".join(f"data: {json.dumps(event)}\n\n" for event in record["events"]) + "data: [DONE]\n")
    else:
        path = tmp_path / "a.json"
        path.write_text(json.dumps([record["document"]] if "document" in record else record))
    rollouts = kb.read_rollouts(path)
    assert (rollouts.format, len(rollouts)) == (ANSWERS[name][0], len(read(record)))
    assert rollouts.law == {"behavior_logprobs": ANSWERS[name][-1]}
