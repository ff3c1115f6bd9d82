"""Training of the small byte-pair vocabulary of the bundled models.

Choices that a small model needs (all in the saved tokenizer.json, so any reader of it behaves alike):
- lower case: one form per word; the answer's case is found again in the document;
- every line begins with a space that the decoder takes away, so a word at the start of a line is the same
  token as in the middle of one. A line's own single leading space cannot be told from it and is lost in
  decoding;
- digits in groups of at most two from the left, punctuation one mark (or one run of the same mark) at a time,
  so that a value has the same pieces wherever it stands;
- bytes as the alphabet: every text can be encoded.
Text cut before a space, before a newline, or after a newline encodes piecewise to the same ids as the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jrtcli.train import corpora
from jrtcli.train.documents import sheets

PAD, EOS = "<pad>", "<eos>"
# A space is put after every newline, a first one included that stands for the start of the text, and taken
# away again where the line is empty or begins with a space of its own (replacing an empty match makes the
# library panic).
_SPARE_SPACE = r"(?<=\n) (?=\s|\z)"
_WORD = r" ?\p{L}+| ?\p{N}{1,2}| ?([^\s\p{L}\p{N}])\1*|\n|[^\S\n]+(?!\S)|[^\S\n]"


def untrained() -> Tokenizer:
    """The tokenizer before training: its normaliser, cutting and decoder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Prepend("\n"),
            normalizers.Replace("\n", "\n "),
            normalizers.Replace(Regex(_SPARE_SPACE), ""),
            normalizers.Replace(Regex(r"\A\n"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def train(texts: Iterable[str], *, size: int = 2048) -> Tokenizer:
    """A vocabulary of `size` tokens (256 bytes, `<pad>` = 0, `<eos>` = 1, merges) learnt from `texts`."""
    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def texts(
    *, documents: int = 3000, docs: str = "", labels: str = "", questions: str = "", prose: str = ""
) -> Iterator[str]:
    """What a vocabulary is learnt from: generated documents, and what is given of the real training files.

    docs, labels, questions, prose: paths as in `jrtcli.train.corpora`; their dev parts are left out.
    """
    real = corpora.sentences(prose) if prose else ()
    stream = sheets(20_000, length_chars=1000, prose=real)
    for sheet in itertools.islice(stream, documents):
        yield sheet.text
        yield "\n".join(f"Question: {fact.question}\nAnswer: {fact.value}" for fact in sheet.facts)
    if docs:
        for doc in corpora.labelled(docs, labels, False):
            yield doc.text[:6000]
    if questions:
        for paragraph in corpora.paragraphs(questions, False):
            yield paragraph.text
    yield from real[::6]
