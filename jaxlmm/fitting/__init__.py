"""From a model to its estimates: the criterion, the search for its optimum, and the certificate.

In reading order: `objective` (what is minimised), `newton` (how), `boundary` (what a singular estimate needs more),
`monte_carlo` (where the criterion itself is random), `units` (estimates in the user's units), `estimate` (one fit),
`traceable` (a fit as a pure function).
"""
