"""Crossed factors at sizes where nothing can be factored: conjugate gradients and random probes."""
