"""Request, sequence, sampling parameters, sampler and detokenizer."""
