"""The nano model: fonts, scene generator, questions, training recipe and weights."""
