"""Report: tables, figures and costs from the cells' result files; reads results, never models."""
