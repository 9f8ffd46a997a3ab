"""Models compared question by question, by the score that is printed of each."""
