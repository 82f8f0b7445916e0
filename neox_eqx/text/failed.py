"""The one error at the end of a run in which some completions failed."""

import itertools
from collections.abc import Mapping, Sequence

from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import is_first
from neox_eqx.text.completion import Completion
from neox_eqx.text.prompts import beginning_of


def check_completions(completions: Sequence[Completion]) -> None:
    """Checks that none failed of all completions of a run, in the order of their prompts.

    Raises:
        InputError: some failed; it says how many, and the prompt of the first and why.
    """
    failed = {index: each for index, each in enumerate(completions) if each.error is not None}
    check_failed(failed, list(itertools.accumulate(each.sample == 0 for each in completions)))


def check_failed(failed: Mapping[int, Completion], prompts: Sequence[int]) -> None:
    """As `check_completions`, given those that failed, by their index among all of the run.

    `prompts` has the number of the prompt, from 1, of each index.
    """
    if not failed:
        return
    index = min(failed)
    first = failed[index]
    if len(prompts) == 1:
        raise InputError(first.error or "", is_reporter=is_first())
    raise InputError(
        f"{len(failed)} of {len(prompts)} completions failed, the first that of prompt "
        f"{prompts[index]}, {beginning_of(first.prompt)}: {first.error}",
        is_reporter=is_first(),
    )
