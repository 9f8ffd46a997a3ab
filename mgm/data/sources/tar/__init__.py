"""Tars of samples, as the webdataset library packs them."""
