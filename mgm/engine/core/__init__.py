"""A request on its way to an answer: sequence, sampler, detokenizer."""
