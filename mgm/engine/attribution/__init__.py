"""Attribution: an answer's attention to image tokens, and their mining attention to pixels."""
