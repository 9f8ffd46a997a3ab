"""Chat in the terminal: conversation and slash commands."""
