"""Grouped keys and values, repeated for each head as Hugging Face's GPT-NeoX has them."""

from collections.abc import Sequence

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.convert.neox.merge import Joined, Run
from neox_eqx.errors import InputError


def interleaved(
    name: str, entries: Sequence[Entry], *, heads: int, kv_heads: int, head_dim: int
) -> Joined:
    """The ranks' projections to queries, keys and values as one tensor, head by head.

    A rank has all its queries, then its keys, then its values; a key and a value serve
    `heads / kv_heads` queries. Hugging Face has a query, a key and a value of each head in turn,
    so that those which are shared occur several times.

    Raises:
        InputError: the heads do not divide among the ranks, or the tensors have other rows.
    """
    first, ranks = entries[0], len(entries)
    if heads % kv_heads or kv_heads % ranks:
        raise InputError(
            f"{first.path}: {first.name}: {heads} heads with {kv_heads} keys and values do not "
            f"divide among {ranks} ranks"
        )
    queries, keys = heads // ranks, kv_heads // ranks
    rows = (queries + 2 * keys) * head_dim
    if first.shape[0] != rows:
        raise InputError(
            f"{first.path}: {first.name} has {first.shape[0]} rows, not the {rows} of {queries} "
            f"queries and {keys} keys and values of {head_dim} that the settings give each rank"
        )

    def run(entry: Entry, block: int) -> Run:
        return Run(entry, block * head_dim, (block + 1) * head_dim)

    blocks = [
        run(entry, block)
        for entry in entries
        for query in range(queries)
        for block in _blocks(query, query * keys // queries, queries, keys)
    ]
    return Joined(name, 0, tuple(blocks))


def _blocks(query: int, key: int, queries: int, keys: int) -> tuple[int, int, int]:
    """Where in a rank's rows a head's query, key and value are, counted in heads."""
    return query, queries + key, queries + keys + key
