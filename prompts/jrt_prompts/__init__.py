"""Orders in which a document and a question are shown to a model."""
