"""Generates responses: model back ends, response cache, runner, LLM judge."""
