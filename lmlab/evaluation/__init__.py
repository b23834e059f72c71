"""Evaluation: scores, perplexity, HellaSwag, rewards, and how sure they are."""
