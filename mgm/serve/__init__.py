"""Serving and chat: terminal CLI, model worker, controller, Gradio page."""
