"""The UCI density-estimation benchmarks as prepared by Papamakarios et al. (2017): files and preprocessing."""
