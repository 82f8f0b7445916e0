"""How likely a model finds texts: the checkpoint, its tokenizer and the scores together."""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence

from tqdm import tqdm

from neox_eqx.errors import InputError
from neox_eqx.generation.options.values import check_number
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.scoring.encode import Text, encode_texts
from neox_eqx.scoring.pairs import Candidate, Pair, PairScore, score_pairs
from neox_eqx.text.generator import TextGenerator


@dataclasses.dataclass(frozen=True)
class TextScore:
    """The score of a text, or of a completion after its prompt.

    The fields are the keys of a line of `neox-eqx score --output`, which has no
    `prompt_tokens` and `candidates` where they are None.
    """

    prompt_tokens: tuple[int, ...] | None
    """None for a text without a prompt."""
    tokens: tuple[int, ...]
    """The ids of the text; with a prompt, of the completion."""
    logprobs: tuple[float | None, ...]
    """The log-probability of each token; None for a text's first, which nothing precedes."""
    sum_logprob: float
    num_tokens: int
    """Tokens that have a log-probability: 0 for a text of one token."""
    is_greedy: bool
    """Whether each of these is the one that the model finds likeliest."""
    candidates: tuple[tuple[Candidate, ...] | None, ...] | None
    """For each position the likeliest tokens, the likeliest first, if they were asked for."""
    error: str | None = None
    """Why the text failed: a log-probability is no number, and is -inf here."""


def score_texts(
    generator: TextGenerator,
    texts: Sequence[Text],
    *,
    batch_size: int = 8,
    top_candidates: int = 0,
    progress: bool = False,
) -> list[TextScore]:
    """The scores in the order of the texts, each a text or a prompt and its completion.

    `batch_size` texts of similar length run together. `progress` shows a bar on stderr if that
    is a terminal.

    Examples:
        >>> score, = score_texts(TextGenerator.load(DEMO_MODEL), [("Tom has 3", " boxes")])
        >>> score.num_tokens
        1

    Raises:
        InputError: a text is empty or too long; the message has its number.
    """
    if isinstance(texts, str):
        raise InputError(f"texts must be a list of texts, not the text {texts[:30]!r}")
    pairs = encode_texts(generator, texts)
    total = sum(len(pair.tokens) for pair in pairs)
    scores = {}
    with tqdm(total=total, unit=" tokens", disable=None if progress else True) as bar:
        for index, score in text_scores(
            generator.model, texts, pairs, batch_size=batch_size, top_candidates=top_candidates
        ):
            scores[index] = score
            bar.update(score.num_tokens)
    return [scores[index] for index in range(len(texts))]


def text_scores(
    model: GPTNeoX,
    texts: Sequence[Text],
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    top_candidates: int,
    done: Collection[int] = (),
) -> Iterator[tuple[int, TextScore]]:
    """The index and the score of each text, batch by batch of similar length.

    `pairs` are the texts encoded; those that are `done`, by their indices, are left out.

    Raises:
        InputError: the sizes are out of range.
    """
    check_number("batch_size", batch_size, int, 1)
    check_number("top_candidates", top_candidates, int, 0, model.config.vocab_size)
    for batch in score_pairs(
        model, pairs, batch_size=batch_size, candidates=top_candidates, done=done
    ):
        for index, score in batch:
            whole = isinstance(texts[index], str)
            yield index, _text_score(pairs[index], score, whole, top_candidates > 0)


def _text_score(pair: Pair, score: PairScore, is_whole: bool, has_candidates: bool) -> TextScore:
    """The score of a text; the context in the pair of a whole text is its own first token."""
    first: tuple[None, ...] = (None,) if is_whole else ()
    return TextScore(
        prompt_tokens=None if is_whole else pair.context,
        tokens=pair.context + pair.tokens if is_whole else pair.tokens,
        logprobs=first + score.logprobs,
        sum_logprob=math.fsum(score.logprobs),
        num_tokens=len(score.logprobs),
        is_greedy=all(score.are_greedy),
        candidates=first + score.candidates if has_candidates else None,
        error=score.error,
    )
