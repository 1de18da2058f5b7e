"""Text to ids and back: byte-level BPE, trained on the texts of a run.

Any string comes back exactly, since every byte has an id. Digits stay single, so that a number in an action
or an answer is always written with the same few ids. The special ids are fixed and can never come out of
text: a user who types "<boi>" gets the ids of those five characters. How many steps a goal is away is one
special id, so that its whole distribution is read off one position.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from worldmodel.datasets.atomic import write_atomic
from worldmodel.errors import UserError

STEP_COUNTS = 64
"""Numbers of steps that are a token each: 0 to 63, the last one also stands for more."""
SPECIAL_TOKENS = ("<pad>", "<eos>", "<boi>", "<eoi>", *(f"<{count} steps>" for count in range(STEP_COUNTS)))
"""Padding, end of document, begin of image, end of image: ids 0 to 3; then how many environment steps a goal is away."""
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


def check_vocabulary(size: int) -> None:
    """Refuse a vocabulary without room for the bytes and the special ids.

    Raises:
        UserError: it is too small.
    """
    if size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocab_size is {size}, but 256 bytes and {len(SPECIAL_TOKENS)} special ids need at least {SMALLEST_VOCABULARY}"
        )


class Tokenizer:
    """Byte-level BPE with fixed special ids.

    Attributes:
        pad_id: fills batches up, 0.
        eos_id: ends a document, 1.
        boi_id: begins a frame, 2.
        eoi_id: ends a frame, 3.
        steps_id: of 0 steps to a goal; 1 to 63 steps follow it.
        vocab_size: number of ids, the special ones included.
    """

    pad_id, eos_id, boi_id, eoi_id, steps_id = range(5)

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend made by `train` or `load`."""
        backend.encode_special_tokens = True  # special tokens inside a text are plain text; not stored in the file
        self._backend = backend
        self.vocab_size: int = backend.get_vocab_size()

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Backend]]:
        return Tokenizer, (self._backend,)  # a copy in another process must treat special tokens as text, too

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges; the same texts in the same order give the same tokenizer.

        Args:
            texts: what to learn from.
            vocab_size: largest number of ids, at least 324; little text gives fewer.

        Raises:
            UserError: when vocab_size is too small for the bytes and the special ids, or a text is not
                valid unicode.
        """
        check_vocabulary(vocab_size)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and forked data workers clash
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((checked(text) for text in texts), trainer)
        return cls(backend)

    def encode(self, text: str) -> list[int]:
        """Encode a text as ids; never a special id.

        Raises:
            UserError: for a string with lone surrogates, which is no text.
        """
        return list(self._backend.encode(checked(text), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text; special ids are left out, a character cut in half becomes U+FFFD.

        Raises:
            UserError: for an id outside the vocabulary.
        """
        wrong = [index for index in ids if not 0 <= index < self.vocab_size]
        if wrong:
            raise UserError(f"id {wrong[0]} is outside the vocabulary of {self.vocab_size} ids")
        text = [int(index) for index in ids if index >= len(SPECIAL_TOKENS)]
        return str(self._backend.decode(text, skip_special_tokens=False))

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json` (HuggingFace's format), whole or not at all."""
        write_atomic(Path(path), self._backend.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read what `save` wrote.

        Raises:
            UserError: when the file is missing, damaged, or the tokenizer of something else.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise UserError(f"there is no tokenizer at {path}; train one, or name the file it was saved to") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is damaged, it is not UTF-8 text; train the tokenizer again") from None
        try:
            backend = Backend.from_str(text)
        except Exception as error:  # noqa: BLE001  the backend raises plain Exception for whatever it cannot parse
            raise UserError(f"{path} is damaged or no tokenizer ({error}); train the tokenizer again") from None
        found = tuple(backend.id_to_token(index) for index in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS or backend.get_vocab_size() < SMALLEST_VOCABULARY:
            raise UserError(
                f"{path} is another program's tokenizer: its first ids are {found}, not {SPECIAL_TOKENS}; "
                "name one that worldmodel saved"
            )
        return cls(backend)


def checked(text: str) -> str:
    """Return the text itself if it can be written as UTF-8.

    Raises:
        UserError: for lone surrogates, naming where.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"text has a lone surrogate {text[error.start]!r} at position {error.start}; that is no text") from None
    return text
