"""Closed-form models for mixed rows: independent columns, one Gaussian, mixtures of Gaussians."""
