"""What is said at the end of completions of which some failed alone."""

from collections.abc import Sequence

from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import is_first
from neox_eqx.text.completion import Completion
from neox_eqx.text.prompts import beginning_of


def check_completions(completions: Sequence[Completion]) -> None:
    """Raises where some of them failed; they are all of a run, in the order of their prompts.

    Raises:
        InputError: how many failed, and of which prompt the first one is, and why.
    """
    failed = [number for number, each in enumerate(completions) if each.error is not None]
    if not failed:
        return
    first = completions[failed[0]]
    if len(completions) == 1:
        raise InputError(first.error or "", mine=is_first())
    prompt = sum(each.sample == 0 for each in completions[: failed[0] + 1])
    raise InputError(
        f"{len(failed)} of {len(completions)} completions failed, the first that of prompt "
        f"{prompt}, {beginning_of(first.prompt)}: {first.error}",
        mine=is_first(),
    )
