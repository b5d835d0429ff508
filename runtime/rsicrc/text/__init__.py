"""Sentences and token ids: vocabulary, encoding, and the sentences that mean no change."""
