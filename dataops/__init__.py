"""Corpus work over shards: reading, normalising, deduplicating, filtering, classifying, selecting. Meets training at the catalog."""
