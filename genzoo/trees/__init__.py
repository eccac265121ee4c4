"""Ensembles of boosted trees: the library behind them, their store, their pool of workers. No Lightning here."""
