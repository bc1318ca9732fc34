"""Corpus work over shards: reading, normalising, deduplicating, filtering, classifying, selecting, packing."""
