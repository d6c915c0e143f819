"""Data frames in, tables out: pandas, polars, pyarrow, dicts of arrays.

In reading order: `levels` (values that name a level), `factors` and `readers` (columns of any library), `columns`,
`alignment` (rows with an index), `owned` (a fit's copy of its data), `files`, `relationship` (matrices between
levels), `tables` (what is printed).
"""
