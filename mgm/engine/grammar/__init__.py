"""Structured output: JSON schemas, regular expressions and grammars, compiled to token masks."""
