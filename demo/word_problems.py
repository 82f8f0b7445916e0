"""Word problems in the form of GSM8K: a question, worked steps, and `#### answer`.

Each kind is one function from a random generator to a Problem. The demo model is trained on
`PRETRAINING_KINDS`; `NEW_KINDS` are kept from it, so that fine-tuning has something to teach.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from random import Random

NAMES = ("Ada", "Ben", "Dan", "Eva", "Ian", "Joe", "Kim", "Leo", "Mia", "Sam", "Tom", "Zoe")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
BOXES = ("bags", "boxes", "rows", "shelves")


@dataclasses.dataclass(frozen=True)
class Problem:
    """`answer` holds the worked steps, a line each, and ends with the line `#### result`."""

    question: str
    answer: str

    @property
    def result(self) -> str:
        """What stands after `####`."""
        return self.answer.rpartition("#### ")[2]


def final_result(text: str) -> str | None:
    """The number after the first `####` of an answer, as GSM8K is scored; None without one."""
    words = text.partition("####")[2].split()
    return words[0] if words else None


def problems(kinds: Sequence[str], seed: int, without: Collection[str] = ()) -> Iterator[Problem]:
    """Endless problems of `kinds` in equal shares, leaving out the questions in `without`."""
    random = Random(f"{seed}: {' '.join(kinds)}")
    while True:
        problem = KINDS[random.choice(kinds)](random)
        if problem.question not in without:
            yield problem


def distinct_problems(kinds: Sequence[str], seed: int, count: int) -> list[Problem]:
    """`count` problems, no question twice: what a model is examined on."""
    chosen: dict[str, Problem] = {}
    source = problems(kinds, seed, without=chosen)
    while len(chosen) < count:
        problem = next(source)
        chosen[problem.question] = problem
    return list(chosen.values())


def _gain(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    a, b = random.randint(2, 60), random.randint(2, 39)
    return _problem(
        random,
        (
            f"{name} has {a} {thing}. {name} buys {b} more. How many {thing} does {name} have now?",
            f"{name} finds {a} {thing} on one day and {b} {thing} on the next. "
            f"How many {thing} does {name} find in all?",
            f"There are {a} {thing} on the table, and {name} puts {b} more there. "
            f"How many {thing} are on the table now?",
        ),
        f"There are {a} + {b} = {a + b} {thing}.",
        result=a + b,
    )


def _loss(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    a = random.randint(10, 99)
    b = random.randint(2, a - 1)
    return _problem(
        random,
        (
            f"{name} has {a} {thing} and gives {b} of them away. "
            f"How many {thing} does {name} have left?",
            f"There are {a} {thing} in a box. {name} takes {b} of them out. "
            f"How many {thing} are left in the box?",
            f"{name} had {a} {thing}, but lost {b}. How many {thing} does {name} still have?",
        ),
        f"There are {a} - {b} = {a - b} {thing} left.",
        result=a - b,
    )


def _groups(random: Random) -> Problem:
    name, thing, box = random.choice(NAMES), random.choice(THINGS), random.choice(BOXES)
    a, b = random.randint(2, 9), random.randint(2, 12)
    return _problem(
        random,
        (
            f"{name} has {a} {box} with {b} {thing} each. How many {thing} does {name} have?",
            f"There are {b} {thing} in each of {a} {box}. How many {thing} are there in all?",
            f"{name} puts {thing} into {a} {box}, {b} in each. "
            f"How many {thing} does {name} put there?",
        ),
        f"There are {a} x {b} = {a * b} {thing}.",
        result=a * b,
    )


def _sharing(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    friends, each = random.randint(2, 9), random.randint(2, 12)
    return _problem(
        random,
        (
            f"{name} shares {friends * each} {thing} equally among {friends} friends. "
            f"How many {thing} does each friend get?",
            f"{friends} friends of {name} share {friends * each} {thing}, and all get the same. "
            f"How many {thing} are there for each friend?",
        ),
        f"Each gets {friends * each} / {friends} = {each} {thing}.",
        result=each,
    )


def _leftover(random: Random) -> Problem:
    name, thing, box = random.choice(NAMES), random.choice(THINGS), random.choice(BOXES)
    size, full = random.randint(3, 9), random.randint(2, 9)
    left = random.randint(1, size - 1)
    total, packed = size * full + left, size * full
    return _problem(
        random,
        (
            f"{name} packs {total} {thing} into {box} of {size}. "
            f"How many {thing} are left over when no more {box} can be filled?",
            f"{name} fills as many {box} of {size} {thing} as {total} {thing} allow. "
            f"How many {thing} are left over?",
        ),
        f"{full} {box} hold {full} x {size} = {packed} {thing}.",
        f"That leaves {total} - {packed} = {left} {thing}.",
        result=left,
    )


def _change(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    count, price = random.randint(2, 9), random.randint(2, 9)
    cost = count * price
    paid = random.choice([bill for bill in (20, 50, 100) if bill > cost])
    return _problem(
        random,
        (
            f"{name} buys {count} {thing} for {price} dollars each and pays with {paid} dollars. "
            f"How many dollars does {name} get back?",
            f"{name} has {paid} dollars and buys {count} {thing} that cost {price} dollars each. "
            f"How many dollars does {name} have left?",
        ),
        f"The {thing} cost {count} x {price} = {cost} dollars.",
        f"{name} has {paid} - {cost} = {paid - cost} dollars left.",
        result=paid - cost,
    )


def _together(random: Random) -> Problem:
    (name, other), thing = random.sample(NAMES, 2), random.choice(THINGS)
    a = random.randint(10, 49)
    b = random.randint(2, a - 2)
    fewer = random.random() < 0.5
    theirs, sign, word = (a - b, "-", "fewer") if fewer else (a + b, "+", "more")
    return _problem(
        random,
        (
            f"{name} has {a} {thing}. {other} has {b} {word} than {name}. "
            f"How many {thing} do they have together?",
            f"{name} finds {a} {thing}, and {other} finds {b} {word}. "
            f"How many {thing} do {name} and {other} find in all?",
        ),
        f"{other} has {a} {sign} {b} = {theirs} {thing}.",
        f"Together they have {a} + {theirs} = {a + theirs} {thing}.",
        result=a + theirs,
    )


def _bus(random: Random) -> Problem:
    place = random.choice(("bridge", "market", "museum", "park", "school", "station"))
    a, on = random.randint(10, 49), random.randint(2, 29)
    off, later = random.randint(2, a - 1), random.randint(2, 19)
    stayed, joined = a - off, a - off + on
    return _problem(
        random,
        (
            f"A bus leaves the {place} with {a} people. At the first stop {off} get off and {on} "
            f"get on. At the next stop {later} get on. How many people are on the bus now?",
            f"There are {a} people on a bus. At the {place} {off} people get off, {on} get on, and "
            f"at the next stop {later} more get on. How many people are on the bus then?",
        ),
        f"{off} get off: {a} - {off} = {stayed} people.",
        f"{on} get on: {stayed} + {on} = {joined} people.",
        f"{later} get on: {joined} + {later} = {joined + later} people.",
        result=joined + later,
    )


def _fence(random: Random) -> Problem:
    name, place = random.choice(NAMES), random.choice(("field", "garden", "yard"))
    width = random.randint(2, 20)
    length = width + random.randint(1, 20)
    half = length + width
    return _problem(
        random,
        (
            f"The {place} of {name} is {length} meters long and {width} meters wide. "
            f"How many meters of fence go around it?",
            f"{name} walks once around a {place} that is {length} meters long and {width} meters "
            f"wide. How many meters does {name} walk?",
        ),
        f"One long and one wide side have {length} + {width} = {half} meters.",
        f"All four sides have 2 x {half} = {2 * half} meters.",
        result=2 * half,
    )


def _weeks(random: Random) -> Problem:
    name, place = random.choice(NAMES), random.choice(("island", "lake", "sea"))
    weeks, days = random.randint(2, 12), random.randint(2, 6)
    return _problem(
        random,
        (
            f"{name} stays at the {place} for {weeks} weeks and {days} days. "
            f"How many days does {name} stay there?",
            f"It is {weeks} weeks and {days} days until {name} goes to the {place}. "
            f"How many days is that?",
        ),
        f"The weeks have {weeks} x 7 = {weeks * 7} days.",
        f"In all there are {weeks * 7} + {days} = {weeks * 7 + days} days.",
        result=weeks * 7 + days,
    )


def _problem(random: Random, wordings: Sequence[str], *steps: str, result: int) -> Problem:
    return Problem(random.choice(wordings), "\n".join((*steps, f"#### {result}")))


KINDS: dict[str, Callable[[Random], Problem]] = {
    "gain": _gain,
    "loss": _loss,
    "groups": _groups,
    "sharing": _sharing,
    "leftover": _leftover,
    "change": _change,
    "together": _together,
    "bus": _bus,
    "fence": _fence,
    "weeks": _weeks,
}
NEW_KINDS = ("fence", "weeks")
PRETRAINING_KINDS = tuple(kind for kind in KINDS if kind not in NEW_KINDS)
