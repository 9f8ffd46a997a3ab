"""`--ablate`: the same questions with one part of the vision side changed, and what that costs."""
