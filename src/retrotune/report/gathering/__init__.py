"""What a study's cells have given: collected, checked to belong together, grouped into rows and matched."""
