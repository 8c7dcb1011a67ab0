"""A small model of English names and places that this project trained: `ner = "bundled"`."""
