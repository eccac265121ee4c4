"""Synthetic densities whose log-density is known."""
