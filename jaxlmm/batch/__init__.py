"""Many data sets at once: a row each, whatever happens to it.

In reading order: `responses` (data sets that share a design), `stacking` (that do not), `queue` (which of them are
still on their way), `chunks` (parts that fit into memory, devices, progress), `fits` (the result), `refitting`.
"""
