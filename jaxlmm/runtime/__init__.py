"""What a process has to be set up for: 64-bit floats, compiled programs, memory.

`precision` (floats and forks), `programs` (compiled code that is kept), `cache` (on disk), `sizes` (what would not
fit).
"""
