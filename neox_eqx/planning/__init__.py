"""What a compiled program costs, read from the text of the compiler, before a chip is paid for.

A program is its computations (`hlo`), whose values have shapes in memory (`shapes`). From them
follow how often each loop runs (`loops`), which bytes an instruction touches in a chip's main
memory (`traffic`) and what the chips send each other (`collectives`).
"""
