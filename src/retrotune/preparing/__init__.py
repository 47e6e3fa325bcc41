"""From raw files to what all cells share: the demo's world, downloads, examples, references, documents, passages."""
