"""How the tokens of the low-resolution encoder get the high-resolution encoder's detail."""
