"""Models made of boosted trees."""
