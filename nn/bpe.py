"""Tokens longer than a byte: byte-pair encoding trained on one's own text, by Hugging Face `tokenizers`.

Paper: Sennrich, Haddow, Birch 2016, Neural Machine Translation of Rare Words with Subword Units, §3.2; on
bytes as in Radford et al. 2019, Language Models are Unsupervised Multitask Learners, §2.2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.errors import UsageError

BYTES = 256


class BytePairs:
    """Text as numbers and back. Every text can be written: what no pair covers is written byte by byte.

    Made by `train` on one's own text, or by `load` from what `save` or transformers wrote. Needs the package
    tokenizers, of the `course` extra.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(
        cls, texts: str | Iterable[str], vocabulary: int, *, special: Sequence[str] = ("<|endoftext|>",)
    ) -> BytePairs:
        """Join the commonest pair of neighbours again and again until there are `vocabulary` kinds of token.

        The first numbers are those of `special`, then of the 256 bytes. A text in which nothing comes twice
        gives fewer. The result is a function of texts and arguments. Raises UsageError for a vocabulary
        without room for these, or without any text.
        """
        tokenizers = _package()
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not any(texts):
            raise UsageError("BytePairs.train: there is no text to learn pairs from; give some")
        if vocabulary < BYTES + len(special):
            raise UsageError(
                f"BytePairs.train: a vocabulary of {vocabulary} has no room for {BYTES} bytes and "
                f"{len(special)} special token(s); expected at least {BYTES + len(special)}"
            )
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special),
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> BytePairs:
        """From tokenizer.json, or a folder with it, or one with GPT-2's vocab.json and merges.txt."""
        tokenizers, path = _package(), Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        pairs = (path / "vocab.json", path / "merges.txt")
        try:
            if not file.exists() and all(part.exists() for part in pairs):
                tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*map(str, pairs)))
                tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
                tokenizer.decoder = tokenizers.decoders.ByteLevel()
                end = "<|endoftext|>"
                tokenizer.add_special_tokens([end] if tokenizer.token_to_id(end) is not None else [])
            else:
                tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises Exception itself
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{file} cannot be read as a tokenizer ({reason})") from error
        return cls(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, into a folder or under this name."""
        path = Path(path)
        file = path if path.suffix == ".json" else path / "tokenizer.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        os.replace(aside, file)

    def __len__(self) -> int:
        """Kinds of token: what a model's `vocabulary` is."""
        return int(self._tokenizer.get_vocab_size())

    def number(self, token: str) -> int:
        """The number of one token, such as a special one. Raises UsageError where there is none."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UsageError(f"{token!r} is none of the {len(self)} tokens")
        return int(found)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text, (tokens,). Special tokens are read as such where the text spells them."""
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of numbers. Bytes that are no UTF-8, as at a cut, become U+FFFD. Raises UsageError."""
        numbers = [int(token) for token in tokens]
        wrong = [number for number in numbers if not 0 <= number < len(self)]
        if wrong:
            raise UsageError(f"token {wrong[0]} is none of the {len(self)}; expected 0 to {len(self) - 1}")
        return str(self._tokenizer.decode(numbers, skip_special_tokens=False))


def _package() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise UsageError(
            "byte-pair encoding needs the package tokenizers, which is not here; pip install "
            "'minigrad[course]'"
        ) from error
    return tokenizers
