"""The nano model: its fonts, drawn scenes, questions, recipe and weights."""
