"""Lines of a file that cannot be scored: refused at the first one, or passed over."""

from collections.abc import Sequence

from neox_eqx.errors import InputError
from neox_eqx.scoring.encode import Text, encode_text
from neox_eqx.scoring.pairs import Pair
from neox_eqx.text.generator import TextGenerator


def encode_lines(
    generator: TextGenerator, texts: Sequence[Text | InputError]
) -> list[Pair | InputError]:
    """What `encode_text` makes of each text, or why it cannot be scored."""
    return [_encode(generator, text) for text in texts]


def _encode(generator: TextGenerator, text: Text | InputError) -> Pair | InputError:
    if isinstance(text, InputError):
        return text
    try:
        return encode_text(generator, text)
    except InputError as error:
        return error


def check_lines(places: Sequence[str], found: Sequence[object], *, skip_bad: bool) -> None:
    """`found` are texts or tokens, and errors where there is none; `places` say of which line.

    Raises:
        InputError: a line is bad, with its place; or all are, where bad ones are to be skipped.
    """
    bad = bad_lines(places, found)
    if not bad or (skip_bad and len(bad) < len(found)):
        return
    first = next(iter(bad.values()))
    if skip_bad:
        raise InputError(f"no line can be scored; the first is {first}")
    raise InputError(f"{first}; --skip-bad scores the other lines")


def bad_lines(places: Sequence[str], found: Sequence[object]) -> dict[int, str]:
    """The index of each error, and what it says with its place."""
    return {
        index: f"{places[index]}: {error}"
        for index, error in enumerate(found)
        if isinstance(error, InputError)
    }
