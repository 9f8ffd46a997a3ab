"""Asks models: back ends, response cache, runner, and the judge."""
