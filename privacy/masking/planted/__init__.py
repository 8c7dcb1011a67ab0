"""Examples of personal data that are nobody's, and sentences to plant them in, by language."""
