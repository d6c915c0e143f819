"""Crossed factors, exactly: the largest is eliminated level by level, the others are one matrix."""
