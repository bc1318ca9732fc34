"""What exists: files, snapshots, lineage, SQL, packs, tokenizers. Imports neither ray nor torch."""
