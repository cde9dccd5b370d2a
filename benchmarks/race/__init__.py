"""The searchers that race, and what they all train: see `benchmarks.search_race`."""
