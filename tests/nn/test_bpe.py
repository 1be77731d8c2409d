"""Byte-pair encoding: texts come back, pairs are those of the definition, files go round."""

import json
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.bpe import BytePairs
from minigrad.nn.text import standard_library_text

pytest.importorskip("tokenizers")
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def learnt() -> BytePairs:
    text = standard_library_text().train[:300_000].tobytes().decode(errors="ignore")
    return BytePairs.train(text, 700)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_every_text_comes_back(learnt, text):
    numbers = learnt.encode(text)
    assert numbers.dtype == np.int64
    assert numbers.ndim == 1
    assert learnt.decode(numbers) == text
    assert len(numbers) <= len(text.encode())


def test_what_was_learnt_makes_its_own_kind_of_text_shorter(learnt):
    text = standard_library_text().validation[:20_000].tobytes().decode(errors="ignore")
    assert len(learnt) == 700
    numbers = learnt.encode(text)
    assert len(numbers) < 0.6 * len(text.encode())
    assert numbers.max() < 700
    assert len(set(numbers.tolist())) > 300


def test_every_pair_joined_was_the_commonest(tmp_path):
    words = ["lower"] * 7 + ["newest"] * 12 + ["wide"] * 3 + ["xy"] * 30 + ["xyz"] * 5
    text = "".join(f" {word}" for word in words)
    BytePairs.train(text, 257 + 12).save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == 12
    pieces = [list(f"Ġ{word}") for word in words]  # Ġ is how a space is written there
    for pair in merges:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        counts = Counter(pair for word in pieces for pair in pairwise(word))
        assert counts[left, right] == max(counts.values())
        for word in pieces:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == (left, right):
                    word[place : place + 2] = [left + right]
                place += 1


def test_training_is_a_function_of_the_text_and_special_tokens_come_first(learnt):
    texts = ["one two three two one", "two three"]
    one, two = (BytePairs.train(texts, 300, special=[END, "<pad>"]) for _ in range(2))
    assert one.encode("two three").tolist() == two.encode("two three").tolist()
    assert [one.number(END), one.number("<pad>")] == [0, 1]
    assert one.encode(f"a{END}b").tolist()[1] == 0
    assert one.decode([0]) == END
    assert len(one) < 300  # nothing is left to join


def test_a_cut_within_a_letter_becomes_the_mark_for_it(learnt):
    numbers = learnt.encode("ж")
    assert len(numbers) == 2
    assert learnt.decode(numbers[:1]) == "\ufffd"


@pytest.mark.parametrize("name", ["", "own.json"])
def test_files_go_round(learnt, tmp_path, name):
    learnt.save(tmp_path / name)
    again = BytePairs.load(tmp_path / name)
    text = "def forward(self, x): return x  # größer"
    assert len(again) == len(learnt)
    np.testing.assert_array_equal(again.encode(text), learnt.encode(text))
    assert again.decode(again.encode(text)) == text
    assert [path.name for path in tmp_path.iterdir()] == [name or "tokenizer.json"]


def test_the_files_of_gpt2_are_read(learnt, tmp_path):
    learnt.save(tmp_path / "x.json")
    model = json.loads((tmp_path / "x.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    again = BytePairs.load(tmp_path)
    text = f"import numpy{END}import sys"
    np.testing.assert_array_equal(again.encode(text), learnt.encode(text))


def test_a_model_learns_on_tokens_and_says_them(learnt):
    text = "the same words again and again, " * 8
    numbers = learnt.encode(text)
    model = nn.GPT(nn.GPTConfig(len(learnt), context=16, layers=1, heads=2, width=16))
    optimizer = nn.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(numbers[None, :16], numbers[None, 1:17]).backward()
        optimizer.step()
    said = model.generate(numbers[:1], 15, temperature=0)
    assert learnt.decode(said) == learnt.decode(numbers[1:16])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: BytePairs.train("abc", 256), "256 has no room for 256 bytes and 1 special"),
        (lambda path: BytePairs.train([], 300), "no text"),
        (lambda path: BytePairs.train("", 300), "no text"),
        (lambda path: BytePairs.load(path), r"tokenizer.json cannot be read.*No such file"),
        (lambda path: BytePairs.train("abc", 300).decode([9999]), "token 9999 is none of the"),
        (lambda path: BytePairs.train("abc", 300).decode([-1]), "token -1 is none of the"),
        (lambda path: BytePairs.train("abc", 300).number("<x>"), "'<x>' is none of the"),
    ],
)
def test_misuse_is_refused(call, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        call(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_files_that_are_no_tokenizers_are_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"tokenizer.json cannot be read as a tokenizer"):
        BytePairs.load(tmp_path)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"tokenizers.*minigrad\[course\]"):
        BytePairs.train("abc", 300)
