"""What a compiled program costs, read from the text of the compiler, before a chip is paid for.

A `program` is its computations (`hlo`), whose values have `shapes` in memory. From them follow
how often each of its `loops` runs, the `traffic` of an instruction with the chip's main memory,
where `fusions` and `slices` touch but parts of arrays, which instructions are mere `moves`, and
the `collectives` by which chips send each other something.
"""
