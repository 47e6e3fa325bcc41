"""The names of scores: what datasets declare, evaluation computes, and tables print."""

METRICS = {
    "exact_match": "EM",
    "multiple_choice": "EM",
    "f1": "F1",
    "f1_first": "F1 (first answer)",
    "rouge_geometric": "geo-ROUGE",
    "rouge_arithmetic": "mean ROUGE",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
"""Every metric's name in result files, and how tables print it (geo-ROUGE: geometric mean of ROUGE-1, -2 and -L)."""
