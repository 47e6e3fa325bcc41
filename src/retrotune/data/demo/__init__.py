"""The embedded demo world: a seeded generator of made-up documents and questions in official file layouts."""
