"""Streaming: values moved from where they lie in files to where they belong in others, through bounded buffers.

What a store says about its output (`layout`), what a plan says about a value (`task`), and the engine between them. Reads
and writes are positioned, never through a memory map: a file that is cut short under a map kills the process. Knows no
plan, no store and no framework; imports NumPy and xxhash.
"""
