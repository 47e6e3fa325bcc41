"""Raw text: documents, DPR passages, and how documents are cut into passages."""
