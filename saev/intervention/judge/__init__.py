"""From counted predictions to verdicts, and how often the tests are wrong."""
