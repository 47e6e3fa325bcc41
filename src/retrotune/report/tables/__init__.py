"""Tables of a study, in every form."""
