"""The weighted mixture: sources of documents, and the stream that a model is trained on."""
