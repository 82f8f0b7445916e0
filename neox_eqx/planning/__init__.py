"""What a pod would do, told by the TPU compiler before a chip is paid for.

From a wish to an answer: a `wish` names the meshes to try, `plan` asks for their programs
(`attempts`), the `child` process compiles them (`programs`) and tells their `facts`; `report` and
`picture` show the best of them.

The facts are read off the compiler's text. A `program` is its computations (`hlo`), whose values
have `shapes` in memory. From them follow how often each of its `loops` runs, the `traffic` of an
instruction with the chip's main memory, where `fusions` and `slices` touch but parts of arrays,
which instructions are mere `moves`, and the `collectives` by which chips send each other something.
"""
