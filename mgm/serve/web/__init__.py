"""Gradio page: layout, event handlers, client of the controller, feedback log, attribution."""
